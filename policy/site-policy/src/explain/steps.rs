//! The steps in the order of `glexec`.

use super::files::SiteFiles;
use super::mapping::{self, Found};
use super::{Granted, Play, Stop, proxy};
use crate::cli::ExplainArgs;
use crate::{accounts, child};
use helper::VerifyRequest;
use identity::{Caller, VerifiedIdentity};
use nix::unistd::{User, getuid};
use policy::judge::{Bans, Case, Denial, Verdict, admit, admit_identity, judge};
use policy::{GlexecConf, SitePolicy};
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything the steps share.
pub(super) struct Scene<'a> {
    pub(super) args: &'a ExplainArgs,
    pub(super) policy: SitePolicy,
    pub(super) conf: GlexecConf,
    pub(super) caller: Caller,
    pub(super) files: SiteFiles,
    pub(super) now: u64,
}

/// Plays all steps up to the verdict.
pub(super) fn play(args: &ExplainArgs, play: &mut Play) -> Result<Granted, Stop> {
    let files = SiteFiles::of(args);
    let (policy, conf) = configuration(args, files, play)?;
    let caller = caller(args)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let scene = Scene { args, policy, conf, caller, files, now };
    admit_caller(&scene, play)?;
    let bytes = proxy::read(&args.proxy, scene.caller.uid)?;
    play.passed("proxy", format!("{} belongs to the caller and is closed to others", args.proxy.display()));
    let identity = verify(&scene, bytes, play)?;
    not_banned(&scene, &identity, play)?;
    let found = mapping::find(&scene, &identity, play)?;
    decide(&scene, found, play)
}

fn configuration(
    args: &ExplainArgs,
    files: SiteFiles,
    play: &mut Play,
) -> Result<(SitePolicy, GlexecConf), Stop> {
    const STEP: &str = "policy";
    let conf_file = &args.places.glexec_conf;
    let text = files.conf(STEP, conf_file)?;
    let conf = crate::conf::parse(&text).map_err(|e| {
        let line = e.line.map(|n| format!(":{n}")).unwrap_or_default();
        Stop::site(STEP, format!("{}{line}: {}", conf_file.display(), e.reason))
    })?;
    let text = files.text(STEP, &args.policy)?;
    let policy = SitePolicy::parse(&args.policy, &text).map_err(|e| Stop::site(STEP, e.to_string()))?;
    policy.payload.walls_stand_with(&conf).map_err(|why| Stop::site(STEP, why))?;
    play.passed(STEP, format!("{} and {} are understood", conf_file.display(), args.policy.display()));
    Ok((policy, conf))
}

fn caller(args: &ExplainArgs) -> Result<Caller, Stop> {
    let user: Option<User> = match &args.caller {
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

fn admit_caller(scene: &Scene<'_>, play: &mut Play) -> Result<(), Stop> {
    const STEP: &str = "caller";
    let caller = &scene.caller;
    admit(&scene.policy, &scene.conf, caller, &[]).map_err(|denial| Stop::denial(STEP, &denial))?;
    let name = caller.name.as_ref().map_or("?", |n| n.as_str());
    play.passed(
        STEP,
        format!("{name} (uid {}) may call glexec, and its uid is not one of payloads", caller.uid),
    );
    Ok(())
}

fn verify(scene: &Scene<'_>, credential: Vec<u8>, play: &mut Play) -> Result<VerifiedIdentity, Stop> {
    const STEP: &str = "credential";
    let trust = &scene.policy.trust;
    scene.files.directory(STEP, &trust.ca_dir)?;
    if trust.voms_dir.exists() {
        scene.files.directory(STEP, &trust.voms_dir)?;
    }
    let may_omit = |name| scene.conf.omission_private_key_white_list.iter().any(|p| p.matches(name));
    let request = VerifyRequest {
        credential,
        ca_dir: trust.ca_dir.clone(),
        voms_dir: trust.voms_dir.clone(),
        require_crl: trust.require_crl,
        max_proxy_lifetime: trust.max_proxy_lifetime,
        allow_limited: trust.allow_limited,
        rules: trust.rules,
        require_key: !scene.caller.name.as_ref().is_some_and(may_omit),
        now: scene.now,
    };
    let reply = child::verify(&scene.args.places.libexec, &request).map_err(|why| Stop::site(STEP, why))?;
    let identity = reply.map_err(|refusal| Stop::denial(STEP, &Denial::Credential(refusal)))?;
    let left = identity.not_after.saturating_sub(scene.now);
    let limited = if identity.limited { "limited, " } else { "" };
    let (hours, minutes) = (left / 3600, left / 60 % 60);
    play.passed(STEP, format!("{}, {limited}valid for {hours}h{minutes:02}m", identity.subject));
    play.passed("issuer", format!("{} is trusted by {}", identity.issuer, trust.ca_dir.display()));
    if let Some(voms) = &identity.voms {
        let fqans: Vec<_> = voms.fqans.iter().map(|f| f.as_str()).collect();
        play.passed("voms", format!("VO {}, signed by {}: {}", voms.vo, voms.signer, fqans.join(" ")));
    }
    Ok(identity)
}

fn not_banned(scene: &Scene<'_>, identity: &VerifiedIdentity, play: &mut Play) -> Result<(), Stop> {
    const STEP: &str = "bans";
    let files = &scene.policy.bans;
    let read =
        |configured: &policy::file::ConfiguredPath| match configured.explicit || configured.path.exists() {
            true => mapping::mapfile(scene.files, STEP, &configured.path),
            false => Ok(policy::mapfile::Mapfile::default()),
        };
    let bans = Bans { dns: read(&files.dn_file)?, fqans: read(&files.fqan_file)? };
    // Nobody stands between the verifier and this program that could have swapped the bytes: its digest is ours.
    let digest = identity.digest;
    admit_identity(&scene.policy, identity, &digest, &bans, scene.now)
        .map_err(|denial| Stop::denial(STEP, &denial))?;
    play.passed(STEP, "neither the DN nor an FQAN is banned");
    Ok(())
}

fn decide(scene: &Scene<'_>, found: Found, play: &mut Play) -> Result<Granted, Stop> {
    const STEP: &str = "account";
    let Found { account, source } = found;
    let case =
        Case { policy: &scene.policy, conf: &scene.conf, caller: &scene.caller, account: &account, source };
    match judge(case) {
        Verdict::Deny(denial) => Err(Stop::denial(STEP, &denial)),
        Verdict::Permit(permit) => {
            let account = permit.account();
            play.passed(
                STEP,
                format!("{} (uid {}) and its groups are listed in [accounts]", account.name, account.uid),
            );
            if scene.policy.payload.pid_namespace {
                play.passed("walls", "the payload gets a process namespace and a /proc of its own");
            }
            Ok(Granted {
                account: account.name.to_string(),
                uid: account.uid,
                gid: account.gid,
                groups: account.groups.clone(),
                source: permit.source().to_string(),
            })
        }
    }
}
