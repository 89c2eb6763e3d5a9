//! The steps in the order of `glexec`. The decision itself is `policy::decide`, the same function that `glexec` calls.

use super::{Granted, Stop, proxy};
use crate::cli::ExplainArgs;
use crate::host::Site;
use crate::{accounts, child};
use identity::Caller;
use nix::unistd::getuid;
use policy::decide::{self, Call, decide};
use policy::file::Isolation;
use policy::judge::admit;
use policy::trusted::Rule;
use policy::{GlexecConf, SitePolicy};
use std::time::{SystemTime, UNIX_EPOCH};

/// Plays all steps up to the verdict.
pub(super) fn play(args: &ExplainArgs, site: &Site<'_>) -> Result<Granted, Stop> {
    let (policy, conf) = configuration(args, site)?;
    let caller = caller(args)?;
    admit_caller(&policy, &conf, &caller, site)?;
    let bytes = match &args.proxy {
        Some(file) => {
            let bytes = proxy::read(file, caller.uid)?;
            site.note("proxy", format!("{} belongs to the caller and is closed to others", file.display()));
            bytes
        }
        None => Vec::new(),
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let digest = hmac_sha256::Hash::hash(&bytes);
    let call =
        Call { policy: &policy, conf: &conf, caller: &caller, credential: &bytes, digest: &digest, now };
    let granted = decide(site, &call).map_err(|refused| Stop::of(refused.step.name(), refused.stop))?;
    if policy.payload.pid_namespace {
        site.note("walls", "the payload gets a process namespace and a /proc of its own");
    }
    if policy.payload.isolate == Isolation::Account {
        site.note("walls", "the payload is kept from other sessions of its account");
    }
    let account = granted.permit.account();
    Ok(Granted {
        account: account.name.to_string(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        source: granted.permit.source().to_string(),
    })
}

fn configuration(args: &ExplainArgs, site: &Site<'_>) -> Result<(SitePolicy, GlexecConf), Stop> {
    const STEP: &str = "policy";
    let stop = |stop| Stop::of(STEP, stop);
    let conf_file = &args.places.glexec_conf;
    // The account `glexec` may own this one, too.
    let helper = accounts::by_name(child::CHILD_ACCOUNT).map_err(Stop::CannotTell)?;
    let text = site.read(conf_file, Rule::FILE.or_owner(helper.map(|u| u.uid))).map_err(stop)?;
    let conf = crate::conf::parse(&text).map_err(|e| {
        let line = e.line.map(|n| format!(":{n}")).unwrap_or_default();
        Stop::site(STEP, format!("{}{line}: {}", conf_file.display(), e.reason))
    })?;
    let text = site.read(&args.policy, Rule::FILE).map_err(stop)?;
    let policy = SitePolicy::parse(&args.policy, &text).map_err(|e| Stop::site(STEP, e.to_string()))?;
    policy.payload.walls_stand_with(&conf).map_err(|why| Stop::site(STEP, why))?;
    site.note(STEP, format!("{} and {} are understood", conf_file.display(), args.policy.display()));
    Ok((policy, conf))
}

fn caller(args: &ExplainArgs) -> Result<Caller, Stop> {
    let user: Option<decide::User> = match &args.caller {
        Some(name) => accounts::by_name(name).map_err(Stop::CannotTell)?,
        None => accounts::by_uid(getuid().as_raw()).map_err(Stop::CannotTell)?,
    };
    match (user, &args.caller) {
        (Some(user), _) => accounts::caller(&user).map_err(Stop::CannotTell),
        (None, Some(name)) => Err(Stop::CannotTell(format!("--caller {name}: not an account of this host"))),
        // A uid that passwd does not know is a caller without a name.
        (None, None) => {
            let (uid, gid) = (getuid().as_raw(), nix::unistd::getgid().as_raw());
            Ok(Caller { name: None, uid, gid, groups: Vec::new() })
        }
    }
}

fn admit_caller(
    policy: &SitePolicy,
    conf: &GlexecConf,
    caller: &Caller,
    site: &Site<'_>,
) -> Result<(), Stop> {
    const STEP: &str = "caller";
    admit(policy, conf, caller, &[]).map_err(|denial| Stop::of(STEP, denial.into()))?;
    let name = caller.name.as_ref().map_or("?", |n| n.as_str());
    let uid = caller.uid;
    site.note(STEP, format!("{name} (uid {uid}) may call glexec, and its uid is not one of payloads"));
    Ok(())
}
