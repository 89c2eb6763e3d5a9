//! The plug-ins of LCMAPS and their options: what each means for `policy.toml`.

use super::pdl::{Module, Word};

/// What a plug-in does on a way through a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Verifies the proxy, as `glexec` always does.
    Verify,
    /// Names an account; the word is the source's name in `[mapping] order`.
    Source(&'static str),
    /// Names groups.
    Group,
    /// Fails for those who are banned.
    Ban,
    /// Succeeds, or does what `glexec` does by itself.
    Pass,
    /// Always fails.
    Refuse,
    /// Nothing here can take its place.
    Unknown,
}

impl Role {
    /// The role of a module.
    pub fn of(module: &Module) -> Self {
        match module.kind().as_str() {
            "verify_proxy" => Self::Verify,
            "localaccount" | "poolaccount" => Self::Source("grid-mapfile"),
            "voms_localaccount" | "voms_poolaccount" => Self::Source("voms-mapfile"),
            // One plug-in speaks to both services; the path tells which.
            "gums_client" | "scas_client" if asks_gums(module) => Self::Source("gums"),
            "scas_client" => Self::Source("scas"),
            "gums_client" => Self::Source("gums"),
            "c_pep" => Self::Source("argus"),
            "voms_localgroup" | "voms_poolgroup" => Self::Group,
            "ban_dn" | "ban_fqan" => Self::Ban,
            "dummy_good" | "posix_enf" | "voms" | "glexec_tracking" | "tracking_groupid" => Self::Pass,
            "dummy_bad" => Self::Refuse,
            _ => Self::Unknown,
        }
    }

    /// Whether the module can end so.
    pub fn can_end(self, success: bool) -> bool {
        match self {
            Self::Pass => success,
            Self::Refuse => !success,
            _ => true,
        }
    }
}

fn asks_gums(module: &Module) -> bool {
    module.arguments.iter().any(|w| w.text.starts_with("https://") && w.text.contains("/gums/"))
}

/// Whether a module that maps groups fails for users without groups; with `-mapmin 0`, its default, it does not.
pub fn demands_groups(module: &Module) -> bool {
    let words: Vec<&str> = module.arguments.iter().map(|w| w.text.as_str()).collect();
    words.contains(&"-mapall") || words.windows(2).any(|pair| pair[0] == "-mapmin" && pair[1] != "0")
}

/// What an option sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sets {
    Mapfile,
    Mapdir,
    GroupMapfile,
    BanFile,
    CaDir,
    VomsDir,
    Endpoint,
    Cert,
    Key,
    ProxyLifetime,
    NoLimited,
    KeepLeftovers,
    /// `glexec` does so anyway.
    Nothing,
    /// Left out: why, and what to do.
    Dropped(&'static str),
    /// Left out, and some will be let in whom LCMAPS refused.
    Looser(&'static str),
    /// Left out, and some will be refused whom LCMAPS let in.
    Stricter(&'static str),
}

/// An option as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// As written.
    pub name: String,
    /// `None` when the plug-in has no such option.
    pub sets: Option<Sets>,
    /// Empty for a switch.
    pub value: String,
    pub line: usize,
}

/// Name without dashes and with `-` for `_`; whether a value follows; what it sets.
type Table = &'static [(&'static str, bool, Sets)];

const DN_OPTIONS: Table = &[
    ("gridmapfile", true, Sets::Mapfile),
    ("gridmap", true, Sets::Mapfile),
    ("gridmapdir", true, Sets::Mapdir),
    ("override-inconsistency", false, Sets::Dropped(NO_POOL_KEY)),
    ("max-mappings-per-credential", true, Sets::Dropped(NO_POOL_KEY)),
    ("strict-poolprefix-match", true, Sets::Nothing),
    ("no-wildcard", false, Sets::Nothing),
    ("disablewildcard", false, Sets::Nothing),
];

const VOMS_OPTIONS: Table = &[
    ("do-not-add-primary-gid-from-mapped-account", false, Sets::Dropped(ACCOUNT_GROUPS)),
    ("add-primary-gid-from-mapped-account", false, Sets::Nothing),
    ("add-primary-gid-as-secondary-gid-from-mapped-account", false, Sets::Nothing),
    ("do-not-add-secondary-gids-from-mapped-account", false, Sets::Dropped(ACCOUNT_GROUPS)),
    ("add-secondary-gids-from-mapped-account", false, Sets::Nothing),
    ("use-voms-gid", false, Sets::Nothing),
    ("use-account-gid", false, Sets::Nothing),
    ("do-not-require-primary-gid", false, Sets::Nothing),
    ("require-primary-gid", false, Sets::Nothing),
    ("do-not-use-secondary-gids", false, Sets::Dropped(NO_POOL_KEY)),
    ("no-wildcard", false, Sets::Dropped(WILDCARDS)),
    ("disablewildcard", false, Sets::Dropped(WILDCARDS)),
];

const GROUP_OPTIONS: Table = &[
    ("groupmapfile", true, Sets::GroupMapfile),
    ("groupmap", true, Sets::GroupMapfile),
    ("groupmapdir", true, Sets::Dropped("groups are not leased from pools; give the accounts their groups")),
    ("map-to-secondary-groups", false, Sets::Dropped(ACCOUNT_GROUPS)),
    ("mapall", false, Sets::Looser("users whose FQANs are not all mapped to groups are not refused")),
    ("mapmin", true, Sets::Dropped(ACCOUNT_GROUPS)),
    ("override-inconsistency", false, Sets::Dropped(ACCOUNT_GROUPS)),
    ("strict-poolprefix-match", true, Sets::Dropped(ACCOUNT_GROUPS)),
];

const BAN_OPTIONS: Table = &[
    ("banmapfile", true, Sets::BanFile),
    ("banmap", true, Sets::BanFile),
    ("no-wildcard", false, Sets::Stricter("in the ban files of glexec * and ? are always wildcards")),
    ("disablewildcard", false, Sets::Stricter("in the ban files of glexec * and ? are always wildcards")),
];

const VERIFY_OPTIONS: Table = &[
    ("certdir", true, Sets::CaDir),
    ("cadir", true, Sets::CaDir),
    ("capath", true, Sets::CaDir),
    ("allow-limited-proxy", false, Sets::Nothing),
    ("disallow-limited-proxy", false, Sets::NoLimited),
    ("require-limited-proxy", false, Sets::Looser("full proxies are accepted as well as limited ones")),
    (
        "discard-private-key-absence",
        false,
        Sets::Stricter(
            "list the callers whose files have no key in omission_private_key_white_list of glexec.conf",
        ),
    ),
    ("never-discard-private-key-absence", false, Sets::Nothing),
    ("max-proxy-level-ttl", true, Sets::ProxyLifetime),
    ("max-voms-ttl", true, Sets::Looser("VOMS attributes count until they expire, however long that is")),
    ("only-enforce-lifetime-checks", false, Sets::Stricter("glexec verifies every proxy completely")),
];

const VOMS_EXTRACT_OPTIONS: Table = &[("vomsdir", true, Sets::VomsDir), ("certdir", true, Sets::CaDir)];

const XACML_OPTIONS: Table = &[
    ("endpoint", true, Sets::Endpoint),
    ("endpoints", true, Sets::Endpoint),
    (
        "endpoint-strategy",
        true,
        Sets::Dropped("endpoints are tried in the order of the list until one answers"),
    ),
    (
        "actiontype",
        true,
        Sets::Dropped("[mapping] has no key for it; glexec asks for the worker node and execute-now"),
    ),
    (
        "resourcetype",
        true,
        Sets::Dropped("[mapping] has no key for it; glexec asks for the worker node and execute-now"),
    ),
    ("capath", true, Sets::CaDir),
    ("cadir", true, Sets::CaDir),
    ("certdir", true, Sets::CaDir),
    ("cert", true, Sets::Cert),
    ("key", true, Sets::Key),
    ("cert-owner", true, Sets::Dropped("root reads certificate and key; they must belong to root")),
];

const PEP_OPTIONS: Table = &[
    ("pep-daemon-endpoint-url", true, Sets::Endpoint),
    (
        "actionid",
        true,
        Sets::Dropped("[mapping.argus] has no key for it; compare it with the site's Argus policy"),
    ),
    (
        "resourceid",
        true,
        Sets::Dropped("[mapping.argus] has no key for it; compare it with the site's Argus policy"),
    ),
    ("capath", true, Sets::CaDir),
    ("certificate", true, Sets::Cert),
    ("cert", true, Sets::Cert),
    ("key", true, Sets::Key),
    (
        "pep-certificate-mode",
        true,
        Sets::Dropped("glexec shows the host's certificate; set cert and key in [mapping.argus]"),
    ),
    ("use-pilot-proxy-as-cafile", false, Sets::Nothing),
];

const TRACKING_OPTIONS: Table = &[
    ("exec", true, Sets::Nothing),
    ("procddir", true, Sets::Nothing),
    ("logdir", true, Sets::Dropped("monitor lines go where glexec.conf sends all messages")),
    ("log-level", true, Sets::Dropped("log_level of glexec.conf counts; monitor lines need 3 or more")),
    ("log-facility", true, Sets::Dropped("syslog_facility of glexec.conf counts")),
    ("datetime-local", false, Sets::Dropped("monitor lines carry the time that syslog gives them")),
    ("min-gid", true, Sets::Dropped("payloads are tracked by their cgroup, not by a group")),
    ("max-gid", true, Sets::Dropped("payloads are tracked by their cgroup, not by a group")),
    ("dont-kill-leftovers", false, Sets::KeepLeftovers),
];

const ENFORCE_OPTIONS: Table = &[
    ("maxuid", true, Sets::Nothing),
    ("maxpgid", true, Sets::Nothing),
    ("maxsgid", true, Sets::Nothing),
    ("set-only-euid", true, Sets::Dropped("glexec switches real, effective and saved ids, always")),
    ("set-only-egid", true, Sets::Dropped("glexec switches real, effective and saved ids, always")),
];

const DUMMY_OPTIONS: Table = &[
    ("dummy-username", true, Sets::Stricter("an account for everybody has no counterpart; write a map file")),
    ("dummy-group", true, Sets::Dropped(ACCOUNT_GROUPS)),
    ("dummy-sec-group", true, Sets::Dropped(ACCOUNT_GROUPS)),
];

const NO_POOL_KEY: &str = "policy.toml has no key for it";
const ACCOUNT_GROUPS: &str = "a payload gets the groups that passwd and group give its account";
const WILDCARDS: &str = "in the voms-mapfile of glexec * and ? are always wildcards";

/// Which options a plug-in has; `None` when the plug-in itself is not known.
fn tables(kind: &str) -> Option<&'static [Table]> {
    Some(match kind {
        "localaccount" | "poolaccount" => &[DN_OPTIONS],
        // The first table counts where both have an option.
        "voms_localaccount" | "voms_poolaccount" => &[VOMS_OPTIONS, DN_OPTIONS],
        "voms_localgroup" | "voms_poolgroup" => &[GROUP_OPTIONS],
        "ban_dn" | "ban_fqan" => &[BAN_OPTIONS],
        "verify_proxy" => &[VERIFY_OPTIONS],
        "voms" => &[VOMS_EXTRACT_OPTIONS],
        "scas_client" | "gums_client" => &[XACML_OPTIONS],
        "c_pep" => &[PEP_OPTIONS],
        "glexec_tracking" => &[TRACKING_OPTIONS],
        "posix_enf" => &[ENFORCE_OPTIONS],
        "dummy_good" | "dummy_bad" => &[DUMMY_OPTIONS],
        _ => return None,
    })
}

/// Reads the arguments of a module; `None` when its options are not known.
pub fn options(module: &Module) -> Option<Vec<Given>> {
    let tables = tables(&module.kind())?;
    let mut found = Vec::new();
    let mut words = module.arguments.iter().peekable();
    while let Some(Word { text, line }) = words.next() {
        // `--max-proxy-level-ttl=L 1d-13:37` and `...@L ...`: the level belongs to the name.
        let name = text.split(['=', '@']).next().unwrap_or(text);
        let plain = name.trim_start_matches('-').to_ascii_lowercase().replace('_', "-");
        let entry = text
            .starts_with('-')
            .then(|| tables.iter().flat_map(|table| table.iter()).find(|(name, _, _)| *name == plain));
        let entry = entry.flatten();
        let takes_value = entry.is_some_and(|(_, value, _)| *value)
            // Of an unknown option, what follows up to the next one is taken for its value.
            || (entry.is_none() && text.starts_with('-'));
        let value = words.next_if(|next| takes_value && !next.text.starts_with('-'));
        let value = value.map(|w| w.text.clone()).unwrap_or_default();
        found.push(Given { name: text.clone(), sets: entry.map(|e| e.2), value, line: *line });
    }
    Some(found)
}
