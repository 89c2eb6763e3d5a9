//! Firewalls: what holds the elements.

use crate::elements::{Change, Element};
use crate::render::{self, Table};
use crate::system::Host;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names a state of all elements: two firewalls with one version hold the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Version(pub String);

/// A packet filter, here or elsewhere. Every call is one step: done, or nothing of it.
pub trait Firewall: Send + Sync {
    /// For logs and answers.
    fn name(&self) -> &str;
    /// Adds and takes away, from a state to the next one.
    ///
    /// # Errors
    /// When it may not have happened. Then [`Firewall::replace`] is to follow.
    fn change(&self, change: &Change, from: &Version, to: &Version) -> Result<(), String>;
    /// Holds these elements and no others.
    ///
    /// # Errors
    /// When it may not have happened.
    fn replace(&self, all: &BTreeSet<Element>, to: &Version) -> Result<(), String>;
    /// Whether it still holds this state, as far as can be seen without reading all of it.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn holds(&self, version: &Version) -> Result<bool, String>;
    /// Ends connections that came in to these hosts.
    ///
    /// # Errors
    /// When some may go on.
    fn cut(&self, hosts: &BTreeSet<IpAddr>) -> Result<(), String>;
}

/// nftables of this host.
#[derive(Debug)]
pub struct Nft {
    table: Table,
    host: Host,
}

impl Nft {
    /// Nothing is changed yet.
    pub fn new(table: Table, host: Host) -> Self {
        Self { table, host }
    }

    /// The text of our table, without elements; nothing when there is no table of that name.
    fn listing(&self) -> Result<Option<String>, String> {
        let name = self.table.name.as_str();
        let tables = self.host.run(&["nft", "list", "tables", "inet"], "")?;
        match tables.lines().any(|line| line.trim() == format!("table inet {name}")) {
            true => self.host.run(&["nft", "-t", "list", "table", "inet", name], "").map(Some),
            false => Ok(None),
        }
    }

    /// Whether a table of our name is ours, or there is none.
    ///
    /// # Errors
    /// When it is somebody else's, or nft fails.
    pub fn may_touch(&self) -> Result<(), String> {
        match self.listing()? {
            Some(text) if !render::is_ours(&text) => Err(format!(
                "the table inet {} is not ours (it has no comment {:?}) and stays as it is; name another one in [nft] table",
                self.table.name.as_str(),
                render::MARK
            )),
            _ => Ok(()),
        }
    }
}

impl Firewall for Nft {
    fn name(&self) -> &str {
        "nft"
    }

    fn change(&self, change: &Change, _: &Version, _: &Version) -> Result<(), String> {
        self.host.run(&["nft", "-f", "-"], &render::change(&self.table, change)).map(drop)
    }

    fn replace(&self, all: &BTreeSet<Element>, _: &Version) -> Result<(), String> {
        self.may_touch()?;
        self.host.run(&["nft", "-f", "-"], &render::replace(&self.table, all)).map(drop)
    }

    fn holds(&self, _: &Version) -> Result<bool, String> {
        Ok(self.listing()?.is_some_and(|text| render::is_ours(&text)))
    }

    fn cut(&self, hosts: &BTreeSet<IpAddr>) -> Result<(), String> {
        for host in hosts {
            let address = host.to_string();
            match self.host.run(&["conntrack", "-D", "-f", render::family(host), "-d", &address], "") {
                Err(reason) if !reason.contains("0 flow entries") => return Err(reason),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Says what would be done, and does nothing.
#[derive(Debug)]
pub struct DryRun(pub Table);

impl DryRun {
    fn say(text: &str) {
        text.lines().for_each(|line| tracing::info!(line, "dry run"));
    }
}

impl Firewall for DryRun {
    fn name(&self) -> &str {
        "dry-run"
    }

    fn change(&self, change: &Change, _: &Version, _: &Version) -> Result<(), String> {
        Self::say(&render::change(&self.0, change));
        Ok(())
    }

    fn replace(&self, all: &BTreeSet<Element>, _: &Version) -> Result<(), String> {
        Self::say(&render::replace(&self.0, all));
        Ok(())
    }

    fn holds(&self, _: &Version) -> Result<bool, String> {
        Ok(true)
    }

    fn cut(&self, hosts: &BTreeSet<IpAddr>) -> Result<(), String> {
        hosts.iter().for_each(|host| tracing::info!(%host, "dry run: connections would be cut"));
        Ok(())
    }
}
