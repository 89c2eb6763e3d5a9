//! The run of `glexec`, on one screen.

use crate::admit::config::{self, Config};
use crate::admit::credential;
use crate::admit::information;
use crate::admit::mapping;
use crate::admit::nesting;
use crate::admit::process_init::{self, Mode, Start};
use crate::admit::refusal_limit;
use crate::admit::request::{self, Invocation, Limits, Request};
use crate::failure::Failure;
use crate::log::Log;
use crate::run::detached_supervisor;
use crate::run::epilogue;
use crate::run::front::{self, Front, Line};
use crate::run::gratia_log::GratiaLog;
use crate::run::launch::Plan;
use crate::run::supervise::{self, Rules};
use crate::session::active_session::ActiveSession;
use crate::session::orphans;
use crate::session::port_blocks;
use crate::session::recording;
use crate::session::session_call;
use crate::session::store;
use crate::sys::{ids, isolation, process};
use identity::VerifiedIdentity;
use nix::unistd::Uid;
use policy::decide;
use policy::judge::{self, Permit};
use record::{Opened, Spool};
use std::process::ExitCode;

/// Runs `glexec` and returns its exit code.
pub fn main() -> ExitCode {
    let mut run = Run { log: Log::standard(), config: None, identity: None, line: None };
    let start = match process_init::take_over() {
        Ok(start) => start,
        Err(failure) => return ExitCode::from(run.refuse(None, &failure)),
    };
    let code = match run.serve(&start) {
        Ok(code) => code,
        Err(failure) => run.refuse(Some(&start), &failure),
    };
    run.line.take().map_or(ExitCode::from(code), |line| line.finish(code))
}

/// A call that was permitted.
struct Call<'a> {
    start: &'a Start,
    config: &'a Config,
    request: &'a Request,
    identity: &'a VerifiedIdentity,
    permit: &'a Permit,
    switch_line: String,
}

impl Call<'_> {
    /// Without linger nobody stays to hold what was asked for.
    fn unsupervised(&self) -> Option<&'static str> {
        if self.config.conf.linger {
            return None;
        }
        if self.request.limits != Limits::default() {
            Some(
                "limits that come with a call (GLEXEC_LIMIT_*) need linger = yes in glexec.conf: nobody would hold them",
            )
        } else if self.request.end_with_caller {
            Some(
                "GLEXEC_END_WITH_CALLER needs linger = yes in glexec.conf: nobody would see the caller's end",
            )
        } else {
            None
        }
    }

    /// Splits into front and supervisor; the supervisor opens the record, runs the payload, and closes everything.
    fn carry_out(
        &self,
        mut session: ActiveSession,
        proxy: Vec<u8>,
        log: &Log,
        line: &mut Option<Line>,
    ) -> Result<u8, Failure> {
        let Self { start, config, request, identity, permit, switch_line } = self;
        let (policy, conf) = (&config.policy.payload, &config.conf);
        if let Some(why) = self.unsupervised() {
            return Err(session.give_up(Failure::site(why)));
        }
        let end_with_caller = policy.end_with_caller || request.end_with_caller;
        let caller = if conf.linger && end_with_caller { Some(supervise::calling_process()) } else { None };
        let caller = match caller.transpose() {
            Ok(caller) => caller,
            Err(failure) => return Err(session.give_up(failure)),
        };
        if start.mode == Mode::Switching && conf.linger {
            let front = Front {
                caller: Uid::from_raw(start.caller.uid),
                target: Uid::from_raw(permit.account().uid),
                root_only: conf.epilogue.is_some(),
                attributes: &start.attributes,
                session: session.id(),
                session_fd: start.session_fd.as_ref(),
            };
            match front::split(&front, session.post()) {
                Ok(end) => *line = Some(end),
                Err(failure) => return Err(session.give_up(failure)),
            }
            if let Err(why) = start.attributes.protect() {
                return Err(session.give_up(Failure::site(why)));
            }
        }
        session.open(start, config, request, identity, permit, log)?;
        if let Err(failure) = log.switch(switch_line) {
            return Ok(session.abandon(log, &failure));
        }
        let gratia = GratiaLog::new(log, start.pid, permit.account().uid, identity);
        let plan = Plan::new(start, config, request, permit, proxy, &session);
        let rules = Rules {
            kill_leftovers: policy.kill_leftovers,
            checkpoint: config.policy.accounting.checkpoint,
            limits: request.limits,
        };
        if !conf.linger {
            return Ok(detached_supervisor::run(session, &plan, rules, &gratia, log));
        }
        let outcome = match supervise::run(&mut session, &plan, rules, line.as_mut(), caller, &gratia) {
            Ok(outcome) => outcome,
            Err(failure) => return Ok(session.abandon(log, &failure)),
        };
        let post = session.post();
        let outcome =
            epilogue::after(conf.epilogue.as_ref(), start, permit, request, (&plan, post), outcome, log);
        Ok(session.close(log, outcome))
    }
}

/// What is known so far; a refusal reports as much of it as there is.
struct Run {
    log: Log,
    config: Option<Config>,
    identity: Option<VerifiedIdentity>,
    /// In the supervisor: the way to the process that the caller sees.
    line: Option<Line>,
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
            let payload = &config.policy.payload;
            payload.walls_stand_with(&config.conf).map_err(Failure::site)?;
            payload.separation(&config.conf, isolation::is_available()).map_err(Failure::site)?;
        }
        // Without root there is nothing to close, and nothing of root's to read.
        let sessions = match start.mode {
            Mode::Switching => {
                orphans::close_orphans(&config.policy.accounting.spool, &config.conf, &self.log)?
            }
            Mode::LogOnly => Vec::new(),
        };
        let signs = nesting::signs(&start.caller, &sessions);
        judge::admit(&config.policy, &config.conf, &start.caller, &signs)?;
        let request = match invocation.map_err(Failure::caller)? {
            Invocation::Run(request) => request,
            Invocation::PortBlocks(from) => return port_blocks::hand_out(from, start, config),
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
        let (policy, conf, now) = (&config.policy, &config.conf, process::unix_ns() / 1_000_000_000);
        let (bytes, digest) = (credential.bytes(), credential.digest());
        let question = decide::Call { policy, conf, caller: &start.caller, credential: bytes, digest, now };
        let (identity, permit, lease) = mapping::decide(config, &question, &mut self.identity)?;
        let (identity, permit) = (&identity, &permit);
        let switch_line = recording::switch_line(start, permit, &request);
        // From here on root holds what others need: neither caller nor terminal may stop it.
        let out_of_reach = ids::OutOfReach::enter();
        let session = ActiveSession::create(start, config, &request, identity, permit)?;
        drop(lease);
        out_of_reach.keep();
        self.log.info(&format!("session {}: {} by {}", session.id(), identity.subject, permit.source()));
        let call = Call { start, config, request: &request, identity, permit, switch_line };
        call.carry_out(session, proxy, &self.log, &mut self.line)
    }

    /// Says why, to the caller in one line, to the site in the log and in a record.
    fn refuse(&self, start: Option<&Start>, failure: &Failure) -> u8 {
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
        failure.code() as u8
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
