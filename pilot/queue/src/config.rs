//! The queue's options: command line, environment and an optional TOML file, in this order of precedence.

use crate::retention::Bytes;
use clap::Args as ClapArgs;
use pilot_core::SwitchRule;
use service::Address;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Options of `pilot queue`.
#[derive(Debug, Clone, Default, ClapArgs)]
pub struct Args {
    /// Where to listen: address or host name, and port, such as localhost:8443; port 0 takes a free one
    #[arg(long, value_name = "ADDR", env = "PILOT_QUEUE_LISTEN")]
    pub listen: Option<Address>,
    /// Where everything is kept: sqlite:FILE
    #[arg(long, value_name = "URL", env = "PILOT_QUEUE_STORE", global = true)]
    pub store: Option<String>,
    /// Host certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Key of the host certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// Trusted authorities [default: /etc/grid-security/certificates]
    #[arg(long, value_name = "DIR", env = "X509_CERT_DIR")]
    pub ca_dir: Option<PathBuf>,
    /// Trusted VOMS servers [default: vomsdir beside the CA directory]
    #[arg(long, value_name = "DIR", env = "X509_VOMS_DIR")]
    pub voms_dir: Option<PathBuf>,
    /// Refuse certificates of authorities without a revocation list
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub require_crl: Option<bool>,
    /// Subject that may act as a pilot; repeat for several
    #[arg(long, value_name = "DN")]
    pub pilot_dn: Vec<String>,
    /// Subject that may ask what waits, for all users, and submit pilots for it; repeat for several
    #[arg(long, value_name = "DN")]
    pub factory_dn: Vec<String>,
    /// How long a pilot may be silent before its payloads are taken back [default: 150s]
    #[arg(long, value_name = "DURATION")]
    pub lease: Option<String>,
    /// Added to that, for clocks and delays [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// How often a payload is tried when pilots or sites fail [default: 3]
    #[arg(long, value_name = "N")]
    pub max_attempts: Option<u32>,
    /// Inputs, logs and outputs [default: FILE.d beside the store]
    #[arg(long, value_name = "DIR", global = true)]
    pub blob_dir: Option<PathBuf>,
    /// Largest input file and largest output, in bytes [default: 1 GiB]
    #[arg(long, value_name = "BYTES")]
    pub max_blob: Option<u64>,
    /// Largest log per attempt and channel, in bytes [default: 64 MiB]
    #[arg(long, value_name = "BYTES")]
    pub max_log: Option<u64>,
    /// Most elements of one array [default: 10000]
    #[arg(long, value_name = "N")]
    pub max_array: Option<u64>,
    /// How long payloads, logs and outputs are kept after their end, and inputs that nobody uses [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub retention: Option<String>,
    /// Bytes of all inputs together above which payloads that are over for an hour are forgotten, the oldest first [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub keep_inputs: Option<u64>,
    /// Likewise for all logs together [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub keep_logs: Option<u64>,
    /// Likewise for all outputs together [default: no bound]
    #[arg(long, value_name = "BYTES")]
    pub keep_outputs: Option<u64>,
    /// Percent of the disk above which no new inputs are taken, and what is over is forgotten after an hour [default: 95]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub high_water: Option<u8>,
    /// Bytes of inputs that one user may have stored [default: 100 GiB]
    #[arg(long, value_name = "BYTES")]
    pub max_user_storage: Option<u64>,
    /// Requests of one user at once, the held ones included; pilots have no such limit [default: 256]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_user_requests: Option<u64>,
    /// Connections of all users and pilots together, half of the files that may be open at most [default: 8192]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub max_connections: Option<u64>,
    /// How long a body may not move before its connection is given up [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub stall: Option<String>,
    /// Bytes per second that a body has to make on average [default: 1024]
    #[arg(long, value_name = "BYTES")]
    pub least_rate: Option<u64>,
    /// Refuse pilots that do not switch to the users' accounts: all, or those of a rule such as vo=cms,site=*.example.org;
    /// repeat for several
    #[arg(long, value_name = "RULE", num_args = 0..=1, require_equals = true, default_missing_value = "*", value_parser = switch_rule)]
    pub require_switch: Vec<SwitchRule>,
    /// Keys that users' proxies are delegated to: ecdsa (P-256), or rsa for tools that know nothing else [default: ecdsa]
    #[arg(long, value_name = "KIND")]
    pub proxy_key: Option<String>,
    /// Give payloads full proxies instead of limited ones
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub full_proxies: Option<bool>,
    /// Let --notify addresses of users be private, loopback or link-local ones
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub notify_private: Option<bool>,
    /// Write the log to this file instead of standard error; SIGHUP opens it again
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// The same options as a TOML file: keys as here, with _ for - [default: /etc/pilotage/queue.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "PILOT_QUEUE_CONFIG", global = true)]
    pub config: Option<PathBuf>,
    /// Look at options, certificate, address and store, say what is wrong, and end
    #[arg(long)]
    pub check: bool,
    /// Something else than to serve
    #[command(subcommand)]
    pub action: Option<crate::backup::Action>,
}

/// The file named by `--config`.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileArgs {
    listen: Option<String>,
    store: Option<String>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    ca_dir: Option<PathBuf>,
    voms_dir: Option<PathBuf>,
    require_crl: Option<bool>,
    pilot_dn: Vec<String>,
    factory_dn: Vec<String>,
    lease: Option<String>,
    grace: Option<String>,
    max_attempts: Option<u32>,
    blob_dir: Option<PathBuf>,
    max_blob: Option<u64>,
    max_log: Option<u64>,
    max_array: Option<u64>,
    retention: Option<String>,
    keep_inputs: Option<u64>,
    keep_logs: Option<u64>,
    keep_outputs: Option<u64>,
    high_water: Option<u8>,
    max_user_storage: Option<u64>,
    max_user_requests: Option<u64>,
    max_connections: Option<u64>,
    stall: Option<String>,
    least_rate: Option<u64>,
    require_switch: Required,
    proxy_key: Option<String>,
    full_proxies: Option<bool>,
    notify_private: Option<bool>,
    log_file: Option<PathBuf>,
}

/// All pilots, none, or those of some rules.
#[derive(Debug, serde::Deserialize)]
#[serde(
    untagged,
    expecting = "write true, false, or a list of rules such as [\"vo=cms,site=*.example.org\"]"
)]
enum Required {
    All(bool),
    Of(Vec<String>),
}

impl Default for Required {
    fn default() -> Self {
        Self::All(false)
    }
}

impl Required {
    fn rules(self) -> Result<Vec<SwitchRule>, String> {
        match self {
            Self::All(false) => Ok(Vec::new()),
            Self::All(true) => Ok(vec![switch_rule("*")?]),
            Self::Of(rules) => rules.iter().map(|rule| switch_rule(rule)).collect(),
        }
    }
}

fn switch_rule(text: &str) -> Result<SwitchRule, String> {
    SwitchRule::parse(text).map_err(|e| format!("require_switch: {e}"))
}

/// What the queue goes by, complete and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Address to listen on.
    pub listen: Address,
    /// SQLite file.
    pub store: PathBuf,
    /// Directory of blobs, logs and outputs.
    pub files: PathBuf,
    /// Host certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Whom to trust.
    pub trust: credential::Trust,
    /// Subjects that may act as pilots.
    pub pilots: BTreeSet<String>,
    /// Subjects of factories: they see what waits for whom.
    pub factories: BTreeSet<String>,
    /// Length of a lease.
    pub lease: Duration,
    /// Time after its end before it is taken back.
    pub grace: Duration,
    /// How often a payload is tried.
    pub max_attempts: u32,
    /// Bytes of a blob or an output.
    pub max_blob: u64,
    /// Bytes of a log.
    pub max_log: u64,
    /// Elements of an array.
    pub max_array: u64,
    /// How long payloads are kept after their end.
    pub retention: Duration,
    /// Bytes of each kind of file above which what is over is forgotten sooner.
    pub keep: Bytes,
    /// Percent of the disk above which no new inputs are taken.
    pub high_water: u8,
    /// Bytes of inputs of one user.
    pub max_user_storage: u64,
    /// Requests of one user at once.
    pub max_user_requests: usize,
    /// Connections at once.
    pub max_connections: usize,
    /// How long a body may not move.
    pub stall: Duration,
    /// Bytes per second that a body has to make.
    pub least_rate: u64,
    /// Where pilots have to switch.
    pub require_switch: Arc<[SwitchRule]>,
    /// Keys that are made for delegations.
    pub proxy_key: delegation::KeyKind,
    /// Whether pilots get limited proxies.
    pub limited: bool,
    /// Whether notices may go to private addresses.
    pub notify_private: bool,
    /// Where the log goes, if not to standard error.
    pub log_file: Option<PathBuf>,
    /// How long to wait for a locked store.
    pub patience: Duration,
}

impl Settings {
    /// Completes the options; errors name the option, the reason and the remedy.
    pub fn from_args(args: Args) -> Result<Self, String> {
        let file = config_file(&args).map(read).transpose()?.unwrap_or_default();
        let a = merge(args, file)?;
        let need =
            |option: &str| format!("--{option} is missing; give it on the command line or in {DEFAULT_FILE}");
        let store = sqlite_file(&a.store.ok_or_else(|| need("store"))?)?;
        let ca_dir = a.ca_dir.unwrap_or_else(|| "/etc/grid-security/certificates".into());
        let mut trust = credential::Trust::in_dir(ca_dir);
        trust.voms_dir = a.voms_dir.unwrap_or(trust.voms_dir);
        trust.require_crl = a.require_crl.unwrap_or(false);
        // Who may do what with a limited proxy is decided per request, not at the door.
        trust.allow_limited = true;
        let lease = duration("lease", a.lease.as_deref().unwrap_or("150s"))?;
        let grace = duration("grace", a.grace.as_deref().unwrap_or("30s"))?;
        if lease < Duration::from_secs(1) {
            return Err("--lease must be at least 1s: pilots renew it five times per lease".into());
        }
        let limits = service::Limits::default();
        let dn = |text: String| identity::Dn::parse(&text).map(String::from).map_err(|e| e.to_string());
        Ok(Self {
            listen: a.listen.ok_or_else(|| need("listen"))?,
            files: a.blob_dir.unwrap_or_else(|| beside(&store)),
            store,
            cert: a.cert.ok_or_else(|| need("cert"))?,
            key: a.key.ok_or_else(|| need("key"))?,
            trust,
            pilots: a.pilot_dn.into_iter().map(dn).collect::<Result<_, _>>()?,
            factories: a.factory_dn.into_iter().map(dn).collect::<Result<_, _>>()?,
            lease,
            grace,
            max_attempts: a.max_attempts.unwrap_or(3).max(1),
            max_blob: a.max_blob.unwrap_or(1 << 30),
            max_log: a.max_log.unwrap_or(64 << 20),
            max_array: a.max_array.unwrap_or(10_000),
            retention: duration("retention", a.retention.as_deref().unwrap_or("30d"))?,
            keep: Bytes {
                inputs: a.keep_inputs.unwrap_or(u64::MAX),
                logs: a.keep_logs.unwrap_or(u64::MAX),
                outputs: a.keep_outputs.unwrap_or(u64::MAX),
            },
            high_water: a.high_water.unwrap_or(95).min(100),
            max_user_storage: a.max_user_storage.unwrap_or(100 << 30),
            max_user_requests: number(a.max_user_requests, limits.requests_per_subject),
            max_connections: number(a.max_connections, limits.connections),
            stall: a.stall.as_deref().map_or(Ok(limits.stall), |text| duration("stall", text))?,
            least_rate: a.least_rate.unwrap_or(limits.least_rate),
            require_switch: a.require_switch.into(),
            proxy_key: key_kind(a.proxy_key.as_deref().unwrap_or("ecdsa"))?,
            limited: !a.full_proxies.unwrap_or(false),
            notify_private: a.notify_private.unwrap_or(false),
            log_file: a.log_file,
            patience: Duration::from_secs(5),
        })
    }

    /// What the server gives away at once. The many pilots of one subject are bound by the connections of all only.
    pub fn limits(&self) -> service::Limits {
        service::Limits {
            connections: self.max_connections,
            connections_per_subject: self.max_user_requests.saturating_mul(2),
            requests_per_subject: self.max_user_requests,
            stall: self.stall,
            least_rate: self.least_rate,
            trusted: self.pilots.clone(),
            ..service::Limits::default()
        }
    }

    /// How often pilots are to sync: five words per lease, so that four may get lost.
    pub fn heartbeat(&self) -> Duration {
        self.lease / 5
    }

    /// After this long without a word, a lease or a pilot is lost.
    pub fn silence(&self) -> Duration {
        self.lease + self.grace
    }
}

/// Store and directory of a queue that is not to be started: for `backup` and `restore`.
pub fn places(args: &Args) -> Result<(PathBuf, PathBuf), String> {
    let file = config_file(args).map(read).transpose()?.unwrap_or_default();
    let url = args.store.clone().or(file.store);
    let store = sqlite_file(&url.ok_or("--store is missing; give it on the command line or in --config")?)?;
    let files = args.blob_dir.clone().or(file.blob_dir).unwrap_or_else(|| beside(&store));
    Ok((store, files))
}

/// Read when no file is named.
const DEFAULT_FILE: &str = "/etc/pilotage/queue.toml";

fn config_file(args: &Args) -> Option<&Path> {
    let default = Path::new(DEFAULT_FILE);
    args.config.as_deref().or(service::config::standard(default))
}

fn read(path: &Path) -> Result<FileArgs, String> {
    service::config::load(path, service::config::parse).map_err(|e| e.to_string())
}

fn merge(a: Args, file: FileArgs) -> Result<Args, String> {
    let listen = file.listen.map(|text| text.parse::<Address>()).transpose();
    let listen = listen.map_err(|e| format!("listen: {e}"))?;
    Ok(Args {
        listen: a.listen.or(listen),
        store: a.store.or(file.store),
        cert: a.cert.or(file.cert),
        key: a.key.or(file.key),
        ca_dir: a.ca_dir.or(file.ca_dir),
        voms_dir: a.voms_dir.or(file.voms_dir),
        require_crl: a.require_crl.or(file.require_crl),
        pilot_dn: a.pilot_dn.into_iter().chain(file.pilot_dn).collect(),
        factory_dn: a.factory_dn.into_iter().chain(file.factory_dn).collect(),
        lease: a.lease.or(file.lease),
        grace: a.grace.or(file.grace),
        max_attempts: a.max_attempts.or(file.max_attempts),
        blob_dir: a.blob_dir.or(file.blob_dir),
        max_blob: a.max_blob.or(file.max_blob),
        max_log: a.max_log.or(file.max_log),
        max_array: a.max_array.or(file.max_array),
        retention: a.retention.or(file.retention),
        keep_inputs: a.keep_inputs.or(file.keep_inputs),
        keep_logs: a.keep_logs.or(file.keep_logs),
        keep_outputs: a.keep_outputs.or(file.keep_outputs),
        high_water: a.high_water.or(file.high_water),
        max_user_storage: a.max_user_storage.or(file.max_user_storage),
        max_user_requests: a.max_user_requests.or(file.max_user_requests),
        max_connections: a.max_connections.or(file.max_connections),
        stall: a.stall.or(file.stall),
        least_rate: a.least_rate.or(file.least_rate),
        require_switch: a.require_switch.into_iter().chain(file.require_switch.rules()?).collect(),
        proxy_key: a.proxy_key.or(file.proxy_key),
        full_proxies: a.full_proxies.or(file.full_proxies),
        notify_private: a.notify_private.or(file.notify_private),
        log_file: a.log_file.or(file.log_file),
        config: a.config,
        check: a.check,
        action: a.action,
    })
}

fn sqlite_file(url: &str) -> Result<PathBuf, String> {
    if url.starts_with("postgres:") || url.starts_with("postgresql:") {
        return Err("--store: PostgreSQL is not supported by this version; use sqlite:FILE".into());
    }
    match url.strip_prefix("sqlite:").map(|rest| rest.strip_prefix("//").unwrap_or(rest)) {
        Some(path) if !path.is_empty() => Ok(path.into()),
        _ => Err(format!("--store {url:?} is not understood; use sqlite:FILE")),
    }
}

fn beside(store: &Path) -> PathBuf {
    let mut name = store.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

fn key_kind(word: &str) -> Result<delegation::KeyKind, String> {
    match word {
        "ecdsa" => Ok(delegation::KeyKind::EcdsaP256),
        "rsa" => Ok(delegation::KeyKind::Rsa2048),
        other => Err(format!("--proxy-key {other:?}: write ecdsa or rsa")),
    }
}

fn number(given: Option<u64>, default: usize) -> usize {
    given.map_or(default, |n| usize::try_from(n).unwrap_or(usize::MAX).max(1))
}

fn duration(option: &str, text: &str) -> Result<Duration, String> {
    identity::duration::parse(text).map_err(|e| format!("--{option}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Args {
        Args {
            listen: Some("127.0.0.1:0".parse().unwrap()),
            store: Some("sqlite:/x/queue.db".into()),
            cert: Some("/c".into()),
            key: Some("/k".into()),
            ..Args::default()
        }
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let s = Settings::from_args(complete()).unwrap();
        assert_eq!((s.lease.as_secs(), s.grace.as_secs(), s.max_attempts), (150, 30, 3));
        assert_eq!(s.heartbeat().as_secs(), 30);
        assert_eq!(s.files, Path::new("/x/queue.db.d"));
        assert!(s.limited && s.trust.allow_limited);
    }

    #[test]
    fn wrong_options_are_named() {
        let refused = |change: fn(&mut Args)| {
            let mut args = complete();
            change(&mut args);
            Settings::from_args(args).unwrap_err()
        };
        assert!(
            refused(|a| a.store = Some("postgres://db/x".into())).contains("PostgreSQL is not supported")
        );
        assert!(refused(|a| a.store = Some("mysql:x".into())).contains("--store"));
        assert!(refused(|a| a.store = None).contains("--store"));
        assert!(refused(|a| a.lease = Some("5".into())).contains("--lease"));
        assert!(refused(|a| a.lease = Some("0s".into())).contains("--lease"));
        assert!(refused(|a| a.proxy_key = Some("dsa".into())).contains("ecdsa or rsa"));
        assert!(refused(|a| a.pilot_dn = vec!["CN=x".into()]).contains("DN"));
    }

    #[test]
    fn the_file_completes_the_command_line() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "lease = \"20s\"\ngrace = \"2s\"\npilot_dn = [\"/CN=b\"]\n").unwrap();
        let mut args = complete();
        args.config = Some(file.path().into());
        args.lease = Some("10s".into());
        args.pilot_dn = vec!["/CN=a".into()];
        let s = Settings::from_args(args.clone()).unwrap();
        assert_eq!((s.lease.as_secs(), s.grace.as_secs()), (10, 2));
        assert_eq!(s.pilots.iter().collect::<Vec<_>>(), ["/CN=a", "/CN=b"]);
        std::fs::write(file.path(), "leese = \"20s\"\n").unwrap();
        assert!(Settings::from_args(args).unwrap_err().contains("leese"));
    }

    #[test]
    fn rules_about_the_switch_come_from_both_places() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let rules = |text: &str, given: &[&str]| {
            std::fs::write(file.path(), text).unwrap();
            let require_switch = given.iter().map(|rule| switch_rule(rule).unwrap()).collect();
            let s =
                Settings::from_args(Args { config: Some(file.path().into()), require_switch, ..complete() });
            s.map(|s| s.require_switch.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(rules("", &[]).unwrap(), [""; 0]);
        assert_eq!(rules("require_switch = false", &[]).unwrap(), [""; 0]);
        assert_eq!(rules("require_switch = true", &[]).unwrap(), ["*"]);
        assert_eq!(rules("require_switch = [\"vo=cms\"]", &["site=wn1"]).unwrap(), ["site=wn1", "vo=cms"]);
        assert!(
            rules("require_switch = [\"cms\"]", &[]).unwrap_err().contains("require_switch: \"cms\": write")
        );
        assert!(rules("require_switch = 3", &[]).unwrap_err().contains("write true, false, or a list"));
    }

    /// The sample with every example taken as if it stood there.
    fn sample() -> String {
        let sample = include_str!("../../../packaging/queue.toml");
        sample.lines().map(|line| format!("{}\n", line.trim_start_matches("#: "))).collect()
    }

    #[test]
    fn the_sample_shows_every_key_with_its_default() {
        let all: toml::Table = sample().parse().unwrap();
        let unknown = toml::from_str::<FileArgs>("no_such_key = 1\n").unwrap_err().to_string();
        let known = unknown.split("expected one of").nth(1).unwrap();
        let known: Vec<_> = known.split('`').skip(1).step_by(2).collect();
        assert!(known.len() >= 18, "{unknown}");
        for key in &known {
            assert!(all.contains_key(*key), "packaging/queue.toml lacks {key}");
        }
        assert_eq!(all.len(), known.len());
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sample()).unwrap();
        let named = Args { config: Some(file.path().into()), ..Args::default() };
        let (shown, default) =
            (Settings::from_args(named).unwrap(), Settings::from_args(complete()).unwrap());
        assert_eq!(
            (shown.lease, shown.grace, shown.max_attempts),
            (default.lease, default.grace, default.max_attempts)
        );
        assert_eq!(
            (shown.max_blob, shown.max_log, shown.max_array),
            (default.max_blob, default.max_log, default.max_array)
        );
        assert_eq!((shown.limited, shown.notify_private), (default.limited, default.notify_private));
        assert_eq!(shown.listen.to_string(), "[::]:8443");
    }

    #[test]
    fn the_command_line_wins_against_a_switch_in_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "full_proxies = true\nlisten = \"localhost:1\"\n").unwrap();
        let mut args = Args { config: Some(file.path().into()), listen: None, ..complete() };
        let s = Settings::from_args(args.clone()).unwrap();
        assert_eq!((s.limited, s.listen.to_string().as_str()), (false, "localhost:1"));
        args.full_proxies = Some(false);
        assert!(Settings::from_args(args.clone()).unwrap().limited);
        std::fs::write(file.path(), "listen = \"8443\"\n").unwrap();
        assert!(Settings::from_args(args).unwrap_err().contains("localhost:8443"));
    }
}
