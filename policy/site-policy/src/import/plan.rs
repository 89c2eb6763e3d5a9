//! What of a policy of LCMAPS goes into `policy.toml`.

use super::flow::Flow;
use super::modules::{self, Given, Role, Sets};
use super::note::{Effect, Notes};
use super::pdl::{Database, Module, Policy};
use std::collections::BTreeMap;

/// Relative paths in a program of root lie below it, and it holds the defaults.
const GRID_SECURITY: &str = "/etc/grid-security/";

/// A value and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub value: String,
    pub line: usize,
}

/// A mapping service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    pub endpoints: Vec<Kept>,
    pub cert: Option<Kept>,
    pub key: Option<Kept>,
}

/// The settings that were carried over.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Sources with the name and line of the module.
    pub order: Vec<(&'static str, Kept)>,
    pub grid_mapfile: Option<Kept>,
    pub voms_mapfile: Option<Kept>,
    pub group_mapfile: Option<Kept>,
    pub gridmapdir: Option<Kept>,
    pub ban_dn: Option<Kept>,
    pub ban_fqan: Option<Kept>,
    /// The ban file of LCAS; the line is one of its database.
    pub lcas_ban: Option<Kept>,
    pub ca_dir: Option<Kept>,
    pub voms_dir: Option<Kept>,
    /// Seconds.
    pub max_proxy_lifetime: Option<(u64, usize)>,
    /// Line that forbids limited proxies.
    pub no_limited: Option<usize>,
    /// Line that says so.
    pub keep_leftovers: Option<usize>,
    pub services: BTreeMap<&'static str, ServicePlan>,
    /// Whether every source gives accounts from pools only.
    pub pools_only: bool,
}

impl Plan {
    /// What is missing before any user can be mapped as LCMAPS maps them: with it the import is no policy that works.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (name, _) in &self.order {
            if self.services.get(name).is_some_and(|service| service.endpoints.is_empty()) {
                missing.push(format!(
                    "[mapping.{name}] has no endpoint: list the URLs of the service in endpoints"
                ));
            }
        }
        if self.pools_only && self.gridmapdir.is_none() && !self.order.is_empty() {
            let what =
                "every account comes from a pool, and no gridmapdir is named: set [mapping] gridmapdir";
            missing.push(what.to_owned());
        }
        missing
    }
}

/// Gathers the settings of the policy; what does not fit goes into the notes.
pub fn gather(database: &Database, policy: &Policy, notes: &mut Notes) -> Result<Plan, String> {
    let flow = Flow::of(database, policy)?;
    let mut plan = Plan::default();
    for line in &database.continued {
        let text =
            "LCMAPS 1.6 does not understand a backslash at the end of a line; it was read as a continuation";
        notes.add(Some(*line), Effect::Note, text);
    }
    for state in &flow.visited {
        if let Some(module) = database.modules.get(*state) {
            plan.module(state, module, notes);
        }
    }
    let line = |state: &str| database.modules.get(state).map_or(policy.name.line, |m| m.line);
    for (source, state) in flow.sources() {
        plan.order.push((source, Kept { value: state.to_owned(), line: line(state) }));
    }
    let kind = |state: &str| database.modules.get(state).map(Module::kind).unwrap_or_default();
    plan.pools_only = !flow.visited.iter().any(|state| {
        let source = matches!(database.modules.get(*state).map(Role::of), Some(Role::Source(_)));
        source && !kind(state).ends_with("poolaccount")
    });
    plan.drop_unread(notes);
    flow.compare(notes);
    twins(database, &flow, notes);
    unused(database, policy, &flow, notes);
    plan.silences(&flow, policy, database, notes);
    Ok(plan)
}

/// LCMAPS loads a plug-in once: of two modules with one file, both run with the options of one.
fn twins(database: &Database, flow: &Flow<'_>, notes: &mut Notes) {
    let modules: Vec<_> =
        flow.visited.iter().filter_map(|s| database.modules.get(*s).map(|m| (*s, m))).collect();
    for (at, (state, module)) in modules.iter().enumerate() {
        let twin =
            modules[..at].iter().find(|(_, m)| m.file == module.file && m.arguments != module.arguments);
        if let Some((other, _)) = twin {
            let text = format!(
                "{state} and {other} share the plug-in {}: LCMAPS gives both the options of one of them",
                module.file
            );
            notes.add(Some(module.line), Effect::Differs, text);
        }
    }
}

fn unused(database: &Database, policy: &Policy, flow: &Flow<'_>, notes: &mut Notes) {
    let name = &policy.name.text;
    for (state, module) in &database.modules {
        if !flow.visited.contains(&state.as_str()) {
            let text = format!("module {state} ({}): policy {name} does not use it", module.file);
            notes.add(Some(module.line), Effect::Dropped, text);
        }
    }
    for other in database.policies.iter().filter(|p| p.name.text != *name) {
        let text = format!("policy {}: policy {name} counts", other.name.text);
        notes.add(Some(other.name.line), Effect::Dropped, text);
    }
}

impl Plan {
    fn module(&mut self, state: &str, module: &Module, notes: &mut Notes) {
        let kind = module.kind();
        let role = Role::of(module);
        if let Role::Source(name) = role
            && !name.ends_with("-mapfile")
        {
            self.services.entry(name).or_default();
        }
        match modules::options(module) {
            Some(options) => {
                for given in &options {
                    self.option(state, &kind, role, given, notes);
                }
                self.defaults(state, module, &kind, &options, notes);
            }
            None if kind == "tracking_groupid" => {
                let text = format!(
                    "module {state} ({}): list the batch system's tracking groups in [accounts] keep_gids",
                    module.file
                );
                notes.add(Some(module.line), Effect::Dropped, text);
            }
            None => {
                let text = format!("module {state} ({}): nothing in policy.toml does its work", module.file);
                notes.add(Some(module.line), Effect::Dropped, text);
            }
        }
    }

    fn option(&mut self, state: &str, kind: &str, role: Role, given: &Given, notes: &mut Notes) {
        let line = given.line;
        let shown = format!("{} {}", given.name, given.value).trim_end().to_owned();
        let mut about = |effect, why: &str| notes.add(Some(line), effect, format!("{state} {shown}: {why}"));
        let Some(sets) = given.sets else {
            let why =
                if given.name.starts_with('-') { "unknown option" } else { "this word belongs to no option" };
            return about(Effect::Dropped, why);
        };
        match sets {
            Sets::Nothing => {}
            Sets::Dropped(why) => about(Effect::Dropped, why),
            Sets::Looser(why) => about(Effect::Looser, why),
            Sets::Stricter(why) => about(Effect::Stricter, why),
            Sets::NoLimited => self.no_limited = Some(line),
            Sets::KeepLeftovers => self.keep_leftovers = Some(line),
            _ if given.value.is_empty() => about(Effect::Dropped, "the option lacks its value"),
            Sets::ProxyLifetime => self.lifetime(state, given, notes),
            Sets::Endpoint if !given.value.starts_with("https://") => {
                about(Effect::Dropped, "an endpoint starts with https://");
            }
            Sets::Endpoint | Sets::Cert | Sets::Key => self.service(role, sets, given, notes),
            _ => {
                let kept = Kept { value: absolute(&given.value), line };
                if let Some((slot, key)) = self.slot(kind, sets) {
                    keep(slot, key, kept, notes);
                }
            }
        }
    }

    fn service(&mut self, role: Role, sets: Sets, given: &Given, notes: &mut Notes) {
        let Role::Source(name) = role else { return };
        let service = self.services.entry(name).or_default();
        let kept = Kept { value: given.value.clone(), line: given.line };
        match sets {
            Sets::Cert => keep(&mut service.cert, "cert", absolute_kept(kept), notes),
            Sets::Key => keep(&mut service.key, "key", absolute_kept(kept), notes),
            _ if service.endpoints.iter().all(|e| e.value != kept.value) => service.endpoints.push(kept),
            _ => {}
        }
    }

    /// Where a path goes.
    fn slot(&mut self, kind: &str, sets: Sets) -> Option<(&mut Option<Kept>, &'static str)> {
        Some(match sets {
            Sets::Mapfile if kind.starts_with("voms_") => (&mut self.voms_mapfile, "[mapping] voms_mapfile"),
            Sets::Mapfile => (&mut self.grid_mapfile, "[mapping] grid_mapfile"),
            Sets::Mapdir => (&mut self.gridmapdir, "[mapping] gridmapdir"),
            Sets::GroupMapfile => (&mut self.group_mapfile, "[mapping] group_mapfile"),
            Sets::BanFile if kind == "ban_fqan" => (&mut self.ban_fqan, "[bans] fqan_file"),
            Sets::BanFile => (&mut self.ban_dn, "[bans] dn_file"),
            Sets::CaDir => (&mut self.ca_dir, "[trust] ca_dir"),
            Sets::VomsDir => (&mut self.voms_dir, "[trust] voms_dir"),
            _ => return None,
        })
    }

    /// A group map gives groups to those whom the VOMS map file maps, and to nobody else: without that source it has no
    /// effect, which a policy must not have.
    fn drop_unread(&mut self, notes: &mut Notes) {
        let voms = self.order.iter().any(|(source, _)| *source == "voms-mapfile");
        if let Some(kept) = self.group_mapfile.take_if(|_| !voms) {
            let text =
                format!("group_mapfile = {}: without voms-mapfile nobody gets groups from it", kept.value);
            notes.add(Some(kept.line), Effect::Dropped, text);
        }
    }

    /// What a plug-in does when an option is missing.
    fn defaults(&mut self, state: &str, module: &Module, kind: &str, given: &[Given], notes: &mut Notes) {
        let has = |wanted| given.iter().any(|g| g.sets == Some(wanted));
        let line = module.line;
        if kind.ends_with("localaccount") || kind.ends_with("poolaccount") {
            if !has(Sets::Mapfile) {
                let kept = Kept { value: format!("{GRID_SECURITY}grid-mapfile"), line };
                let text = format!(
                    "{state} names no map file: LCMAPS takes GRIDMAP of its environment, else {}, which is written here",
                    kept.value
                );
                notes.add(Some(line), Effect::Note, text);
                if let Some((slot, key)) = self.slot(kind, Sets::Mapfile) {
                    keep(slot, key, kept, notes);
                }
            }
            if kind.ends_with("poolaccount") && !has(Sets::Mapdir) {
                let text = format!(
                    "{state} names no gridmapdir: LCMAPS takes GRIDMAPDIR of its environment; set [mapping] gridmapdir"
                );
                notes.add(Some(line), Effect::Dropped, text);
            }
        }
        if matches!(kind, "ban_dn" | "ban_fqan") && !has(Sets::BanFile) {
            let text = format!("{state} names no ban file; set it in [bans]");
            notes.add(Some(line), Effect::Looser, text);
        }
        if let Role::Source(name @ ("gums" | "scas" | "argus")) = Role::of(module) {
            if !has(Sets::Endpoint) {
                let text = format!(
                    "{state} has no usable endpoint: calls fail until you list one in [mapping.{name}]"
                );
                notes.add(Some(line), Effect::Stricter, text);
            }
            if !has(Sets::Cert) {
                let text = format!(
                    "{state} names no certificate: LCMAPS shows the pilot's proxy to the service, glexec the host's certificate; the service must know it"
                );
                notes.add(Some(line), Effect::Differs, text);
            }
        }
    }

    fn lifetime(&mut self, state: &str, given: &Given, notes: &mut Notes) {
        let Some(seconds) = period(&given.value) else {
            let text = format!("{state} {} {}: write the period as 2d-13:37", given.name, given.value);
            return notes.add(Some(given.line), Effect::Dropped, text);
        };
        let (most, line) = match self.max_proxy_lifetime {
            Some((earlier, line)) if earlier >= seconds => (earlier, line),
            _ => (seconds, given.line),
        };
        if self.max_proxy_lifetime.is_some_and(|(earlier, _)| earlier != seconds) {
            let text = format!(
                "{state} {}: glexec has one limit for proxies of every level, the longest one",
                given.name
            );
            notes.add(Some(given.line), Effect::Looser, text);
        }
        self.max_proxy_lifetime = Some((most, line));
    }

    /// What LCMAPS did not say and `glexec` decides by a default.
    fn silences(&self, flow: &Flow<'_>, policy: &Policy, database: &Database, notes: &mut Notes) {
        let line = Some(policy.name.line);
        let kinds: Vec<String> =
            flow.visited.iter().filter_map(|s| database.modules.get(*s)).map(Module::kind).collect();
        let has = |kind: &str| kinds.iter().any(|k| k == kind);
        if self.max_proxy_lifetime.is_none() {
            notes.add(
                line,
                Effect::Stricter,
                "no limit on the lifetime of proxies; glexec has one of 7 days: [trust] max_proxy_lifetime",
            );
        }
        if !has("glexec_tracking") {
            notes.add(
                line,
                Effect::Differs,
                "processes that a payload leaves behind lived on; glexec ends them: [payload] kill_leftovers",
            );
        }
        for (only, other, source) in [
            ("poolaccount", "localaccount", "grid-mapfile"),
            ("voms_poolaccount", "voms_localaccount", "voms-mapfile"),
        ] {
            if has(only) && !has(other) {
                let text =
                    format!("only pool accounts were taken from the {source}; glexec takes plain ones too");
                notes.add(line, Effect::Looser, text);
            }
        }
        if self.order.is_empty() {
            let text = format!("policy {} has no source of accounts: nobody is mapped", policy.name.text);
            notes.add(line, Effect::Stricter, text);
        }
        if self.order.iter().any(|(name, _)| !name.ends_with("-mapfile")) {
            notes.add(
                line,
                Effect::Differs,
                "LCMAPS asks the service at each call; glexec keeps a mapping for [mapping] cache_ttl",
            );
        }
    }
}

fn keep(slot: &mut Option<Kept>, key: &str, kept: Kept, notes: &mut Notes) {
    match slot {
        None => *slot = Some(kept),
        Some(first) if first.value == kept.value => {}
        Some(first) => {
            let text = format!(
                "{}: {key} has one value, and line {} says {}; merge the two",
                kept.value, first.line, first.value
            );
            notes.add(Some(kept.line), Effect::Dropped, text);
        }
    }
}

fn absolute(path: &str) -> String {
    let path = if path.len() > 1 { path.trim_end_matches('/') } else { path };
    if path.starts_with('/') { path.to_owned() } else { format!("{GRID_SECURITY}{path}") }
}

fn absolute_kept(kept: Kept) -> Kept {
    Kept { value: absolute(&kept.value), ..kept }
}

/// `2d-13:37`, `2d` or `13:37`, in seconds.
fn period(text: &str) -> Option<u64> {
    let (days, clock) = match text.split_once('d') {
        Some((days, rest)) => (days.parse::<u64>().ok()?, rest.strip_prefix('-').unwrap_or(rest)),
        None => (0, text),
    };
    let minutes = match clock.split_once(':') {
        Some((hours, minutes)) => hours.parse::<u64>().ok()? * 60 + minutes.parse::<u64>().ok()?,
        None if clock.is_empty() => 0,
        None => return None,
    };
    days.checked_mul(86_400)?.checked_add(minutes.checked_mul(60)?).filter(|s| *s > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read() {
        assert_eq!(period("2d-13:37"), Some(221_820));
        assert_eq!(period("14d-00:00"), Some(1_209_600));
        assert_eq!((period("7d"), period("12:00")), (Some(604_800), Some(43_200)));
        for bad in ["", "x", "0d", "12", "d-1", "99999999999999999999d"] {
            assert_eq!(period(bad), None, "{bad}");
        }
    }
}
