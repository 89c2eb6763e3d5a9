//! What the site's record says about a call.

use crate::admit::config::Config;
use crate::admit::process_init::Start;
use crate::admit::request::{Command, Request};
use crate::failure::Failure;
use crate::session::cgroup::{KillMethod, Leaf};
use crate::session::store::SessionState;
use crate::sys::ids::AsCaller;
use crate::sys::process;
use identity::VerifiedIdentity;
use identity::shown::log_value;
use policy::judge::{NestedSign, Permit};
use record::text::hex;
use record::{Batch, Denied, Opened, Role, Spool, Subject};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What is known before the payload runs.
pub(crate) fn opened(
    start: &Start,
    config: &Config,
    request: &Request,
    identity: &VerifiedIdentity,
    permit: &Permit,
    state: &SessionState,
    proxy: Option<&Path>,
) -> Opened {
    let account = permit.account();
    let leaf = state.leaf.as_ref();
    let (argv0, mut argv, argv_sha256) = command_texts(request.command.as_ref());
    let mut claimed = request.claimed.clone();
    if !config.policy.accounting.arguments {
        argv.clear();
        claimed.iter_mut().for_each(|claimed| claimed.argv.clear());
    }
    Opened {
        record_id: state.id.clone(),
        role: Role::Payload,
        host: host(),
        boot_id: boot_id(),
        cgroup: leaf.map(|leaf| leaf.path().display().to_string()),
        supervisor_pid: std::process::id(),
        sid: start.session.map_or(0, |p| p.as_raw().unsigned_abs()),
        pgid: start.group.as_raw().unsigned_abs(),
        batch: batch(&start.environment),
        caller_uid: start.caller.uid,
        caller_name: start.caller.name.as_ref().map(ToString::to_string),
        caller_gid: start.caller.gid,
        pilot_dn: request.pilot_dn.clone(),
        payload: subject(identity),
        claimed: claimed.map(|claimed| *claimed),
        benchmark: config.policy.accounting.benchmark.clone(),
        cred_sha256: hex(&identity.digest),
        cred_serial: identity.serial.clone(),
        cred_not_after: identity.not_after,
        account: account.name.to_string(),
        uid: account.uid,
        gid: account.gid,
        groups: account.groups.clone(),
        policy_source: permit.source().to_string(),
        policy_rev: Some(config.policy_rev.clone()),
        argv0,
        argv,
        argv_sha256,
        cwd: std::env::current_dir()
            .map_or_else(|_| "?".into(), |p| record::text::printable(p.as_os_str().as_bytes(), 4096)),
        target_proxy: proxy.map(|path| record::text::printable(path.as_os_str().as_bytes(), 4096)),
        start_unix_ns: process::unix_ns(),
        start_boottime_ns: process::boottime_ns(),
        cpu_source: leaf.and_then(Leaf::cpu_source).unwrap_or("subreaper").into(),
        ladder: ladder(state, config.conf.linger),
        glexec_id: request.id.clone(),
        ..Opened::default()
    }
}

/// By what the payload and what it leaves behind are ended, the surest first.
fn ladder(state: &SessionState, linger: bool) -> Vec<String> {
    let kill_method = state.leaf.as_ref().and_then(Leaf::kill_method).map(KillMethod::name);
    let namespace = state.pid_namespace.map(|_| "pid_namespace");
    // Without linger there is no parent to take orphans in, or to die with.
    let supervised = ["subreaper", "pdeathsig"].into_iter().filter(|_| linger);
    kill_method.into_iter().chain(namespace).chain(supervised).map(str::to_owned).collect()
}

/// What the record of a session says about its beginning.
pub(crate) fn opened_of(state: &SessionState) -> Option<Opened> {
    Spool::new(&state.spool).record(&state.id).ok()?.opened.map(|opened| *opened)
}

/// A refused call; `origin` is the session whose payload called, for one that is nested.
pub(crate) fn denied(
    start: &Start,
    identity: Option<&VerifiedIdentity>,
    origin: Option<Opened>,
    failure: &Failure,
    id: String,
) -> Denied {
    let of = origin.as_ref().map(|o| format!("; payload of session {}", o.record_id)).unwrap_or_default();
    let signs = failure.denial().map_or(&[][..], |d| d.nested_signs());
    Denied {
        record_id: id,
        host: host(),
        boot_id: boot_id(),
        at_unix_ns: process::unix_ns(),
        supervisor_pid: std::process::id(),
        batch: batch(&start.environment),
        caller_uid: start.caller.uid,
        caller_name: start.caller.name.as_ref().map(ToString::to_string),
        caller_gid: start.caller.gid,
        cred_sha256: identity.map(|i| hex(&i.digest)).or(origin.as_ref().map(|o| o.cred_sha256.clone())),
        payload: identity.map(subject).or(origin.map(|o| o.payload)),
        code: failure.code() as i32,
        reason: failure.reason() + &of,
        nested_signs: signs.iter().map(NestedSign::to_string).collect(),
        argv0: start.argv.get(1).map(|a| record::text::printable(a.as_bytes(), 1024)).unwrap_or_default(),
        ..Denied::default()
    }
}

fn subject(identity: &VerifiedIdentity) -> Subject {
    Subject {
        dn: identity.subject.to_string(),
        issuer: identity.issuer.to_string(),
        fqans: identity.fqans().iter().map(ToString::to_string).collect(),
        vo: identity.voms.as_ref().map(|v| v.vo.clone()),
        voms_issuer: identity.voms.as_ref().map(|v| v.signer.to_string()),
    }
}

fn command_texts(command: Option<&Command>) -> (String, Vec<String>, String) {
    let Some(command) = command else {
        return Default::default();
    };
    let all = || std::iter::once(&command.program).chain(&command.arguments).map(|a| a.as_bytes());
    let mut hash = hmac_sha256::Hash::new();
    for argument in all() {
        hash.update(argument);
        hash.update([0]);
    }
    let program = record::text::printable(command.program.as_bytes(), 1024);
    (program, record::text::capped_argv(all()), hex(&hash.finalize()))
}

/// Name of this host.
pub(crate) fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "localhost".into(), |h| h.to_string_lossy().into_owned())
}

/// Names this boot of the host.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// The batch job by the variables that batch systems set. The caller could forge them: a hint, not evidence.
fn batch(environment: &[(OsString, OsString)]) -> Option<Batch> {
    record::claim::batch(|wanted| {
        environment.iter().find(|(name, _)| name == wanted).map(|(_, v)| v.as_bytes())
    })
}

/// The line by which gLExec told its site who became whom. Paths are looked up with the caller's rights.
pub(crate) fn switch_line(start: &Start, permit: &Permit, request: &Request) -> String {
    let account = permit.account();
    let group = |gid: u32| {
        let found = nix::unistd::Group::from_gid(nix::unistd::Gid::from_raw(gid)).ok().flatten();
        found.map_or_else(|| gid.to_string(), |g| g.name)
    };
    let caller = start.caller.name.as_ref().map_or_else(|| start.caller.uid.to_string(), ToString::to_string);
    let (real_group, mapped_group) = (group(start.caller.gid), group(account.gid));
    let resolved = AsCaller::enter(nix::unistd::Uid::from_raw(start.caller.uid)).ok().map(|_rights| {
        let show = |path: &std::path::Path| record::text::printable(path.as_os_str().as_bytes(), 1024);
        let cwd = std::env::current_dir().map(|p| show(&p)).unwrap_or_default();
        let program = request.command.as_ref().map(|c| std::path::Path::new(&c.program));
        (cwd, program.and_then(|p| std::fs::canonicalize(p).ok()).map(|p| show(&p)).unwrap_or_default())
    });
    let (cwd, real_program) = resolved.unwrap_or_default();
    let (program, argv, _) = command_texts(request.command.as_ref());
    let arguments = argv.get(1..).unwrap_or_default().join(" ");
    let id = request.id.as_ref().map(|id| format!(" id: \"{}\"", log_value(id))).unwrap_or_default();
    let (cwd, real_program) = (log_value(&cwd), log_value(&real_program));
    let (program, arguments) = (log_value(&program), log_value(&arguments));
    format!(
        "real_user({caller}),real_group({real_group})->mapped_user({}),mapped_group({mapped_group}) \
         cwd: \"{cwd}\" cmd: \"{program}\" (=\"{real_program}\") args: \"{arguments}\"{id}",
        account.name
    )
}
