//! The run of `glexec`, on one screen.

use crate::admit::config::{self, Config};
use crate::admit::credential;
use crate::admit::information;
use crate::admit::mapping;
use crate::admit::nesting;
use crate::admit::process_init::{self, Mode, Start};
use crate::admit::refusal_limit;
use crate::admit::request::{self, Invocation};
use crate::admit::verify;
use crate::failure::Failure;
use crate::log::Log;
use crate::run::detached_supervisor;
use crate::run::epilogue;
use crate::run::gratia_log::GratiaLog;
use crate::run::launch::Plan;
use crate::run::supervise::{self, Rules};
use crate::session::active_session::ActiveSession;
use crate::session::orphans;
use crate::session::recording;
use crate::session::session_call;
use crate::session::store;
use crate::sys::{ids, process};
use identity::VerifiedIdentity;
use nix::unistd::Uid;
use policy::judge::{self, Case, Verdict};
use record::{Opened, Spool};
use std::process::ExitCode;

/// Runs `glexec` and returns its exit code.
pub fn main() -> ExitCode {
    let mut run = Run { log: Log::standard(), config: None, identity: None };
    let start = match process_init::take_over() {
        Ok(start) => start,
        Err(failure) => return run.refuse(None, &failure),
    };
    match run.serve(&start) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => run.refuse(Some(&start), &failure),
    }
}

/// What is known so far; a refusal reports as much of it as there is.
struct Run {
    log: Log,
    config: Option<Config>,
    identity: Option<VerifiedIdentity>,
}

impl Run {
    fn serve(&mut self, start: &Start) -> Result<u8, Failure> {
        let invocation = request::parse(&start.argv, &start.environment);
        if let Some(code) = information::answer(&invocation, start)? {
            return Ok(code);
        }
        let config = &*self.config.insert(config::load()?);
        self.log = Log::configured(&config.conf);
        if start.mode == Mode::Switching {
            config::check_places(config)?;
        }
        if let Ok(Invocation::Session(call)) = &invocation {
            return session_call::serve(call, start, &self.log);
        }
        if start.mode == Mode::Switching {
            config.policy.payload.walls_stand_with(&config.conf).map_err(Failure::site)?;
        }
        let sessions = orphans::close_orphans(&config.policy.accounting.spool, &self.log)?;
        let signs = nesting::signs(&start.caller, &sessions);
        judge::admit(&config.policy, &config.conf, &start.caller, &signs)?;
        let request = match invocation.map_err(Failure::caller)? {
            Invocation::Run(request) => request,
            Invocation::Help | Invocation::Version | Invocation::Defaults | Invocation::Session(_) => {
                return Ok(0);
            }
        };
        let (caller, lock) = (Uid::from_raw(start.caller.uid), config.conf.input_lock);
        let credential = credential::read("GLEXEC_CLIENT_CERT", &request.identity, caller, lock)?;
        let proxy = match request.source == request.identity {
            true => credential.bytes().to_vec(),
            false => credential::read("GLEXEC_SOURCE_PROXY", &request.source, caller, lock)?.bytes().to_vec(),
        };
        let identity = &*self.identity.insert(verify::verify(config, &start.caller, &credential)?);
        let (bans, now) = (mapping::bans(config)?, process::unix_ns() / 1_000_000_000);
        judge::admit_identity(&config.policy, identity, credential.digest(), &bans, now)?;
        let (account, source) = mapping::account_of(config, identity)?;
        let (policy, conf, account) = (&config.policy, &config.conf, &account);
        let permit = match judge::judge(Case { policy, conf, caller: &start.caller, account, source }) {
            Verdict::Permit(permit) => permit,
            Verdict::Deny(denial) => return Err(denial.into()),
        };
        let mut session = ActiveSession::open(start, config, &request, identity, &permit)?;
        self.log.info(&format!("session {}: {} by {source}", session.id(), identity.subject));
        if let Err(failure) = self.log.switch(&recording::switch_line(start, &permit, &request)) {
            return Ok(session.abandon(&self.log, &failure));
        }
        let gratia = GratiaLog::new(&self.log, permit.account().uid, identity);
        let plan = Plan::new(start, config, &request, &permit, proxy, session.id());
        let rules = Rules {
            kill_leftovers: policy.payload.kill_leftovers,
            end_with_caller: policy.payload.end_with_caller,
            checkpoint: policy.accounting.checkpoint,
            root_only: conf.epilogue.is_some(),
        };
        if !conf.linger {
            return Ok(detached_supervisor::run(session, &plan, rules, &gratia, &self.log));
        }
        if rules.root_only
            && start.mode == Mode::Switching
            && let Err(e) = ids::be_root()
        {
            // Before there is a payload: who could stop us in between could keep the epilogue from running.
            return Ok(session.abandon(&self.log, &Failure::site(format!("setresuid: {e}"))));
        }
        let outcome = match supervise::run(&mut session, &plan, rules, conf, &gratia) {
            Ok(outcome) => outcome,
            Err(failure) => return Ok(session.abandon(&self.log, &failure)),
        };
        let outcome =
            epilogue::after(conf.epilogue.as_ref(), start, &permit, &request, &plan, outcome, &self.log);
        Ok(session.close(&self.log, outcome))
    }

    /// Says why, to the caller in one line, to the site in the log and in a record.
    fn refuse(&self, start: Option<&Start>, failure: &Failure) -> ExitCode {
        let reason = failure.reason();
        let id = store::new_id().unwrap_or_default();
        let subject = self.identity.as_ref().map(|i| format!(" for {}", i.subject)).unwrap_or_default();
        let caller = start.map_or(nix::unistd::getuid().as_raw(), |s| s.caller.uid);
        let nested = failure.denial().is_some_and(|d| !d.nested_signs().is_empty());
        let origin = start.filter(|_| nested).and_then(|s| nesting::origin(s.caller.uid));
        let of = origin.as_ref().map(|o| {
            format!(
                "; payload of session {} for {}, opened by uid {}",
                o.record_id, o.payload.dn, o.caller_uid
            )
        });
        let (code, of) = (failure.code() as u8, of.unwrap_or_default());
        self.log.error(&format!("refused {code} uid {caller}{subject}: {reason}{of} [{id}]"));
        self.log.tell_caller(&reason);
        let denied = failure.code() == judge::Code::Denied;
        let root = start.filter(|s| denied && s.mode == Mode::Switching);
        if let (Some(start), Some(config)) = (root, &self.config) {
            self.record_refusal(start, config, origin, failure, id);
            if nested {
                orphans::punish(config.policy.payload.nested, start.caller.uid, &self.log);
            }
        }
        ExitCode::from(failure.code() as u8)
    }

    fn record_refusal(
        &self,
        start: &Start,
        config: &Config,
        origin: Option<Opened>,
        failure: &Failure,
        id: String,
    ) {
        if !refusal_limit::admits(start.caller.uid) {
            return self.log.warning(&format!("uid {}: too many refusals to record each", start.caller.uid));
        }
        let record = recording::denied(start, self.identity.as_ref(), origin, failure, id);
        if let Err(e) = Spool::new(&config.policy.accounting.spool).deny(&record) {
            self.log.error(&format!("the refusal cannot be recorded: {e}"));
        }
    }
}
