//! The command line.

use clap::{Args, Parser, Subcommand, ValueEnum};
use identity::{Dn, Fqan};
use policy::file::POLICY_FILE;
use policy::glexec_conf::GLEXEC_CONF;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the programs without privilege are installed; `make install` names it when PREFIX is not /usr.
const LIBEXEC: &str = match option_env!("PILOTAGE_LIBEXEC") {
    Some(path) => path,
    None => "/usr/libexec/pilotage",
};

/// Check the site's policy and explain its decisions. Needs no privilege and changes nothing, but for pool expire and retire.
#[derive(Debug, Parser)]
#[command(name = "site-policy", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check policy.toml, glexec.conf and everything they rely on
    ///
    /// One line for each finding: FILE:LINE: SEVERITY: WHAT; REMEDY. Exit code: 0 no errors, 1 errors, 2 usage,
    /// 3 policy.toml or glexec.conf cannot be read.
    Check(CheckArgs),
    /// Play the decision about a proxy, or about a name, step by step, without running anything
    ///
    /// Exit code: 0 the payload would run, 1 it would be refused, 2 usage, 3 something cannot be read.
    Explain(ExplainArgs),
    /// Turn the lcmaps.db of gLExec into a policy.toml
    ///
    /// What has no counterpart is named on standard error and in comments, with its line. Exit code: 0 done, 1 LCMAPS
    /// itself would refuse the file, 2 usage, 3 a file cannot be read or written.
    Import(ImportArgs),
    /// Show the blocks of ports on this node: who has them, since when, which rest, and who listens
    ///
    /// Exit code: 0 shown, 1 hosts of the table ports does not name this host, 2 usage, 3 something cannot be read.
    Ports(PortsArgs),
    /// Show who holds which pool account, and end leases that nobody uses
    ///
    /// A lease stays while a session or a process of its account is on this host. Exit code: 0 done, 1 a lease that was
    /// named was not ended, 2 usage, 3 something cannot be read or done.
    Pool(PoolArgs),
    /// Write firewall rules for grid services, or the snippets that tell programs their range of ports
    ///
    /// The rules let pass what the services need, in the direction in which they need it, and drop everything else.
    /// Exit code: 0 written, 1 it must not be (servers behind NAT, dcap for the world), 2 usage, 3 the policy cannot be read.
    Firewall(FirewallArgs),
    /// Show what grid services need from a firewall, and what stops working when it is closed
    ///
    /// Exit code: 0 shown, 2 usage, 3 the policy cannot be read.
    Services(ServicesArgs),
}

/// The blocks of ports that `glexec` hands out to pilots.
pub const BLOCK_DIR: &str = "/run/glexec/blocks";

/// Where the agents of a node agree on blocks of ports without it.
pub const PORT_DIR: &str = "/run/pilotage/ports";

/// Where the configuration lies.
#[derive(Debug, Args)]
pub struct Places {
    /// glexec's own configuration
    #[arg(long, value_name = "F", default_value = GLEXEC_CONF)]
    pub glexec_conf: PathBuf,
    /// Directory of glexec-verify and glexec-map
    #[arg(long, value_name = "DIR", default_value = LIBEXEC)]
    pub libexec: PathBuf,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The policy
    #[arg(value_name = "F", default_value = POLICY_FILE)]
    pub policy: PathBuf,
    #[command(flatten)]
    pub places: Places,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The proxy that glexec would be given in GLEXEC_CLIENT_CERT
    #[arg(long, value_name = "F", required_unless_present = "dn", conflicts_with = "dn")]
    pub proxy: Option<PathBuf>,
    /// What if somebody of this name came, /C=../CN=..; no certificate is judged
    #[arg(long, value_name = "DN", value_parser = Dn::parse)]
    pub dn: Option<Dn>,
    /// With --dn: an FQAN of that person, primary first; may be repeated
    #[arg(long, value_name = "FQAN", value_parser = Fqan::parse, requires = "dn")]
    pub fqan: Vec<Fqan>,
    /// The account that would call glexec [default: who runs this]
    #[arg(long, value_name = "NAME")]
    pub caller: Option<String>,
    /// The policy
    #[arg(long, value_name = "F", default_value = POLICY_FILE)]
    pub policy: PathBuf,
    #[command(flatten)]
    pub places: Places,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The database of LCMAPS [default: lcmaps_db_file of glexec.conf, else /etc/lcmaps/lcmaps-glexec.db]
    #[arg(long, value_name = "F")]
    pub lcmaps: Option<PathBuf>,
    /// glexec's own configuration, which names the policy that counts
    #[arg(long, value_name = "F", default_value = GLEXEC_CONF)]
    pub glexec_conf: PathBuf,
    /// Where to write; a file that exists is not replaced [default: standard output]
    #[arg(long, short, value_name = "F")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct PortsArgs {
    /// The policy [default: /etc/pilotage/policy.toml where there is one]
    #[arg(long, value_name = "F")]
    pub policy: Option<PathBuf>,
    /// Look into this directory only [default: the blocks that glexec hands out, and /run/pilotage/ports]
    #[arg(long, value_name = "DIR")]
    pub port_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What is to be done with leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PoolAction {
    /// Show the accounts, what each is doing, and who holds it
    List,
    /// End leases that have not been used for a while. Sessions of other hosts that share the directory are not seen:
    /// choose an age that no payload reaches
    Expire,
    /// End the leases that are named, whatever their age
    Retire,
}

#[derive(Debug, Args)]
pub struct PoolArgs {
    /// What to do
    #[arg(value_enum, value_name = "ACTION")]
    pub action: PoolAction,
    /// For retire: the account, the DN of its holder, or the name of the lease
    #[arg(value_name = "LEASE")]
    pub lease: Vec<String>,
    /// For expire: how long a lease must not have been used [default: 30d]
    #[arg(long, value_name = "AGE", value_parser = identity::duration::parse)]
    pub older_than: Option<Duration>,
    /// Say what would be ended, and end nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Only this pool, written as in map files: .cms
    #[arg(long, value_name = "POOL")]
    pub pool: Option<String>,
    /// The directory of leases [default: gridmapdir of the policy]
    #[arg(long, value_name = "DIR")]
    pub gridmapdir: Option<PathBuf>,
    /// The policy
    #[arg(long, value_name = "F", default_value = POLICY_FILE)]
    pub policy: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl PoolArgs {
    /// What contradicts itself on the command line.
    pub fn contradiction(&self) -> Option<&'static str> {
        let named = !self.lease.is_empty();
        match self.action {
            PoolAction::List if self.dry_run => Some("pool list ends nothing; remove --dry-run"),
            PoolAction::Retire if !named => Some("pool retire needs the account or holder of a lease"),
            PoolAction::List | PoolAction::Expire if named => {
                Some("only pool retire takes the names of leases")
            }
            PoolAction::List | PoolAction::Retire if self.older_than.is_some() => {
                Some("only pool expire takes --older-than")
            }
            _ => None,
        }
    }
}

#[derive(Debug, Args)]
pub struct ServicesArgs {
    /// Only these services [default: all]
    #[arg(long, value_name = "NAME")]
    pub service: Vec<String>,
    /// The policy, for ports that the site has changed [default: /etc/pilotage/policy.toml where there is one]
    #[arg(long, value_name = "F")]
    pub policy: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// On which side the site stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// Its users and jobs use services elsewhere
    Client,
    /// It runs the services
    Server,
    /// Both; sites that run servers need this, since their jobs are clients, too
    Both,
}

/// How the rules are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A file for nft -f
    Nft,
    /// A file for iptables-restore
    Iptables,
    /// A file for ip6tables-restore
    Ip6tables,
    /// A script for firewalld
    Firewalld,
    /// Words, for those who run the firewall
    Text,
    /// A line of inetd.conf for a GridFTP server
    Inetd,
    /// A file of xinetd.d for a GridFTP server
    Xinetd,
    /// A script around a client
    Wrapper,
    /// Options of a Java program
    Java,
    /// cog.properties of the Java CoG kit
    Cog,
}

/// The word for a value of an option.
fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl RoleWord {
    /// As on the command line.
    pub fn word(self) -> String {
        word(&self)
    }
}

impl Format {
    /// As on the command line.
    pub fn word(self) -> String {
        word(&self)
    }
}

#[derive(Debug, Args)]
pub struct FirewallArgs {
    /// On which side the site stands
    #[arg(long, value_enum, value_name = "ROLE")]
    pub role: Option<RoleWord>,
    /// A service that is to work; site-policy services shows the names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub service: Vec<String>,
    /// Address of the site's host, for rules on a router before it [default: for the host itself]
    #[arg(long, value_name = "ADDR", value_delimiter = ',')]
    pub host: Vec<IpAddr>,
    /// Who is let in and may be reached [default: everybody]
    #[arg(long, value_name = "NET", value_delimiter = ',')]
    pub peer: Vec<String>,
    /// How the rules are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "nft")]
    pub format: Format,
    /// Callback range of the site [default: range of the table ports]
    #[arg(long, value_name = "RANGE")]
    pub range: Option<String>,
    /// Callback range of the peers [default: 1024-65535]
    #[arg(long, value_name = "RANGE")]
    pub peer_ports: Option<String>,
    /// Public address of a router that hides the site's hosts
    #[arg(long, value_name = "OUTSIDE")]
    pub nat: Option<Ipv4Addr>,
    /// A host behind it: NAME=ADDRESS with its share in hosts of the table ports, or ADDRESS:SHARE
    #[arg(long, value_name = "HOST", value_delimiter = ',', requires = "nat")]
    pub hosts: Vec<String>,
    /// Write also what is dangerous: dcap beyond local networks
    #[arg(long)]
    pub force: bool,
    /// The policy [default: /etc/pilotage/policy.toml where there is one]
    #[arg(long, value_name = "F")]
    pub policy: Option<PathBuf>,
}
