//! One lease from its receipt to its report: carries out what [`super::lease`] decides.

use super::Agent;
use super::delivery::{Answer, Delivered, Delivery};
use super::health::Experience;
use super::launch::Launch;
use super::lease::{
    ChildExit, Conclusion, Effects, GRACE, LeaseEvent, LeaseMachine, PACKING, StopReason, settle_output,
};
use super::opener::OpenLease;
use super::ports::NoPorts;
use super::registry::Whole;
use super::results::Results;
use super::session::{Input, Session, SessionNews};
use super::stage::{Staged, stage};
use anyhow::{Context, Result};
use backon::Retryable;
use pilot_api::{self as api, AttemptResult, Outcome, OutputSummary, PayloadSpec, PayloadState, Report};
use pilot_client::{ClientError, Pauses, file_body};
use pilot_wire::{EndCause, Start, ToAgent};
use policy::ports::PortRange;
use policy::ports::variables::Variable;
use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long a runner may take beyond the grace before we force it, step by step.
const FORCE: Duration = Duration::from_secs(5);
/// How long a signal that ended the session may take to reach us too.
const SAME_SIGNAL: Duration = Duration::from_millis(300);
/// How long a log may still travel once the lease goes back unreported.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long a runner may be silent beyond the walltime and the grace: the payload has its account and can stop it.
const SILENCE: Duration = Duration::from_secs(5);

/// Pause before looking for free ports again: blocks of other pilots end their rest without a word.
const PORTS_PAUSE: Duration = Duration::from_millis(500);
/// How often the log says that a payload still waits for ports.
const PORTS_REMIND: Duration = Duration::from_secs(60);

type Stops = mpsc::UnboundedReceiver<StopReason>;

/// A lease just received.
pub struct Received {
    /// The lease.
    pub lease: api::Lease,
    /// The payload's proxy, when it came along.
    pub proxy: Option<String>,
    /// Reasons to stop.
    pub stops: Stops,
}

/// By what a lease waits for its turn.
#[derive(Debug, Clone, Copy)]
pub struct Turns {
    /// What the pilot has.
    pub whole: Whole,
    /// After this long the lease goes back.
    pub patience: Duration,
}

/// Runs the payload of one lease.
pub async fn run(agent: Arc<Agent>, received: Received, turns: Turns) {
    let Received { lease, proxy, mut stops } = received;
    tracing::info!(payload = %lease.payload, attempt = %lease.attempt, number = lease.number, owner = lease.owner, "lease received");
    let effects =
        EffectRunner { agent: &agent, lease: lease.lease, session: None, force_at: None, conclusion: None };
    let machine = LeaseMachine::new(&agent.node.host, !lease.spec.outputs.is_empty());
    let mut work = Work { agent: &agent, lease: &lease, machine, effects, user_refused: false };
    work.carry_out(proxy, turns, &mut stops).await;
    agent.registry.remove(lease.lease);
}

/// Does what the machine asks for.
struct EffectRunner<'a> {
    agent: &'a Agent,
    lease: uuid::Uuid,
    session: Option<Session>,
    force_at: Option<Instant>,
    conclusion: Option<Conclusion>,
}

impl Effects for EffectRunner<'_> {
    fn state(&mut self, state: PayloadState) {
        self.agent.registry.set_state(self.lease, state);
    }

    fn stop(&mut self, grace: Duration) {
        self.force_at = Some(Instant::now() + grace + FORCE);
        if let Some(session) = &self.session {
            session.stop(grace);
        }
    }

    fn finish(&mut self, conclusion: Conclusion) {
        self.conclusion = Some(conclusion);
    }
}

struct Work<'a> {
    agent: &'a Agent,
    lease: &'a api::Lease,
    machine: LeaseMachine,
    effects: EffectRunner<'a>,
    /// Whether the site turned the user away.
    user_refused: bool,
}

impl Work<'_> {
    fn on(&mut self, event: LeaseEvent) {
        self.machine.on(event, &mut self.effects);
    }

    async fn carry_out(&mut self, proxy: Option<String>, turns: Turns, stops: &mut Stops) {
        let staged = self.await_turn(proxy, turns, stops).await;
        let mut shipping = JoinSet::new();
        if let Ok(staged) = &staged {
            self.machine.set_ports(staged.ports.as_ref().map(|ports| ports.range().to_string()));
        }
        let started = match &staged {
            Ok(staged) => self.launch(staged).map_err(|e| ChildExit::Unprepared(format!("{e:#}"))),
            Err(exit) => Err(exit.clone()),
        };
        match started {
            Ok(session) => {
                for (spool, stream) in session.logs().into_iter().zip(["stdout", "stderr"]) {
                    let client = self.agent.client.clone();
                    shipping.spawn(spool.ship(client, self.lease.attempt, self.lease.lease, stream));
                }
                self.effects.session = Some(session);
                self.attend(stops).await;
            }
            Err(exit) => self.on(LeaseEvent::Gone(exit)),
        }
        self.agent.registry.free_slot(self.lease.lease);
        self.conclude(shipping, stops).await;
        if let Ok(staged) = &staged {
            launcher(self.agent, self.lease, staged).clean_up();
        }
    }

    /// Prepares the payload and waits for its turn, both at once. The error is what became of it instead.
    async fn await_turn(
        &mut self,
        proxy: Option<String>,
        turns: Turns,
        stops: &mut Stops,
    ) -> Result<Staged, ChildExit> {
        let (agent, lease) = (self.agent, self.lease);
        let mut ready = pin!(prepare(agent, lease, proxy, turns.whole));
        let mut patience = pin!(sleep(turns.patience));
        loop {
            tokio::select! {
                ready = &mut ready => return ready.map_err(|e| ChildExit::Unprepared(format!("{e:#}"))),
                Some(reason) = stops.recv() => {
                    self.on(LeaseEvent::Stop(reason));
                    let begun = agent.registry.has_begun(lease.lease);
                    let unprepared = || ChildExit::Unprepared("ended before the start".to_owned());
                    return Err(if begun { unprepared() } else { ChildExit::Recalled });
                }
                () = &mut patience, if !patience.is_elapsed() => agent.registry.recall(lease.lease),
            }
        }
    }

    fn launch(&self, staged: &Staged) -> Result<Session> {
        let launch = launcher(self.agent, self.lease, staged);
        let variables = self.agent.ports.as_ref().map(|ports| ports.variables.as_slice()).unwrap_or_default();
        let block = staged.ports.as_ref().map(OpenLease::range);
        let mut start = start(self.lease, site_env(self.lease, block, variables, &self.agent.dial_name));
        start.proxy_copy = launch.removable_proxy();
        start.scratch = Some(self.agent.scratch.display().to_string());
        let inputs = self.lease.spec.inputs.iter().enumerate().map(|(number, input)| Input {
            name: input.path.clone(),
            mode: input.mode,
            size: input.size,
            content: staged.input(number),
        });
        Session::begin(launch.start()?, start, inputs.collect(), staged.dir.path())
    }

    /// Follows the session until it is over.
    async fn attend(&mut self, stops: &mut Stops) {
        let mut stopped_alone = false;
        let mut time_over: Option<Instant> = None;
        let mut started_at: Option<Instant> = None;
        while self.effects.conclusion.is_none() {
            let Some(session) = self.effects.session.as_mut() else { return };
            let force_at = self.effects.force_at;
            let over = time_over.filter(|_| self.machine.is_running() || self.machine.is_packing());
            let event = tokio::select! {
                news = session.next() => match news {
                    SessionNews::Message(ToAgent::Started(started)) => {
                        tracing::info!(payload = %self.lease.payload, attempt = %self.lease.attempt, account = started.account,
                            session = started.session, pid = started.pid, "payload started");
                        started_at = Some(Instant::now());
                        time_over = time_end(started_at, self.lease.spec.walltime, GRACE + SILENCE);
                        LeaseEvent::Started(started)
                    }
                    SessionNews::Message(ToAgent::Ended(ended)) => {
                        stopped_alone = ended.cause == EndCause::Stopped;
                        time_over = time_end(started_at, self.lease.spec.walltime, PACKING);
                        LeaseEvent::Ended(ended)
                    }
                    SessionNews::Message(ToAgent::Packed(summary)) => LeaseEvent::Packed(summary),
                    SessionNews::Message(ToAgent::Done | ToAgent::Here { .. }) => continue,
                    SessionNews::Failed(why) => {
                        tracing::error!(payload = %self.lease.payload, attempt = %self.lease.attempt, reason = why, "the node failed a payload");
                        LeaseEvent::NodeFailed(why)
                    }
                    SessionNews::Over(exit) => LeaseEvent::Gone(exit),
                },
                Some(reason) = stops.recv() => LeaseEvent::Stop(reason),
                () = at(over) => {
                    time_over = None;
                    LeaseEvent::Stop(StopReason::Time)
                }
                () = at(force_at) => {
                    session.force();
                    self.effects.force_at = Some(Instant::now() + FORCE);
                    continue;
                }
            };
            if stopped_alone && matches!(event, LeaseEvent::Gone(_)) {
                // A batch system signals all processes of a job: the reason may be on its way to us as well.
                if let Ok(Some(reason)) = timeout(SAME_SIGNAL, stops.recv()).await {
                    self.on(LeaseEvent::Stop(reason));
                }
            }
            if let LeaseEvent::Gone(exit) = &event {
                self.user_refused = matches!(exit, ChildExit::Code(203, _));
                self.note_lost_logs();
            }
            self.on(event);
        }
    }

    /// A log that the node could not keep is the node's fault, whatever the payload made of it.
    fn note_lost_logs(&mut self) {
        let logs = self.effects.session.as_ref().map(Session::logs);
        if let Some(why) = logs.into_iter().flatten().find_map(|log| log.failure()) {
            self.on(LeaseEvent::NodeFailed(why));
        }
    }

    /// Delivers logs, output and the result; only the loss of the lease cuts it short, and not once the queue has the
    /// result.
    async fn conclude(&mut self, mut shipping: JoinSet<Option<String>>, stops: &mut Stops) {
        let ids = (self.lease.payload, self.lease.attempt);
        let (outcome, report) = match self.effects.conclusion.take() {
            Some(Conclusion::Report(outcome, report)) => (outcome, *report),
            Some(Conclusion::Return) => return self.hand_back(stops).await,
            Some(Conclusion::Silent) | None => {
                tracing::info!(payload = %ids.0, attempt = %ids.1, "payload ended, lease handed back or lost");
                timeout(LAST_WORDS, async { while shipping.join_next().await.is_some() {} }).await.ok();
                return;
            }
        };
        tracing::info!(payload = %ids.0, attempt = %ids.1, outcome = %outcome, exit_code = report.exit_code,
            reason = report.reason, wall_ms = report.wall_ms, cpu_ms = report.cpu_ms, "payload ended");
        self.agent.registry.note(match outcome {
            Outcome::Infra if self.user_refused => Experience::Refused(&self.lease.owner),
            Outcome::Infra => Experience::Bad,
            _ => Experience::Good,
        });
        let stored = tokio::select! {
            (outcome, report) = self.deliver_files(shipping, outcome, report.clone()) => Some((outcome, report)),
            reason = cut_short(stops) => (reason == StopReason::Cancel).then(|| {
                let reason = Some("cancelled while its logs and output files were stored".to_owned());
                (Outcome::Killed, Report { reason, ..report })
            }),
        };
        let delivered = match stored {
            Some((outcome, report)) => {
                let result = AttemptResult { lease: self.lease.lease, outcome, returned: false, report };
                self.deliver(&result, stops).await
            }
            None => Delivered::Lost,
        };
        match delivered {
            Delivered::Yes => tracing::debug!(payload = %ids.0, attempt = %ids.1, "result delivered"),
            Delivered::Lost => {
                tracing::warn!(payload = %ids.0, attempt = %ids.1, "lease lost before the result was delivered");
            }
            // The reason was told when the answer came.
            Delivered::Refused => (),
        }
    }

    /// Gives back what has not begun, so that another pilot gets it now and not when this one ends.
    async fn hand_back(&self, stops: &mut Stops) {
        let reason = Some("handed back before it began".to_owned());
        let report = Report { host: self.agent.node.host.clone(), reason, ..Report::default() };
        let lease = self.lease.lease;
        let result = AttemptResult { lease, outcome: Outcome::Infra, returned: true, report };
        let delivered = self.deliver(&result, stops).await;
        tracing::info!(payload = %self.lease.payload, attempt = %self.lease.attempt, ?delivered, "lease handed back before it began");
    }

    /// Logs and output; what could not be stored is added to the report.
    async fn deliver_files(
        &self,
        mut shipping: JoinSet<Option<String>>,
        outcome: Outcome,
        mut report: Report,
    ) -> (Outcome, Report) {
        while let Some(shipped) = shipping.join_next().await {
            if let Ok(Some(text)) = shipped {
                report.reason =
                    Some(report.reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
            }
        }
        if let Err(e) = self.upload().await {
            tracing::error!(attempt = %self.lease.attempt, error = format!("{e:#}"), "output files were not stored");
            let mut output = OutputSummary { broken: true, ..report.output.unwrap_or_default() };
            // The refusal says most, so it stands first.
            output.notes.clear();
            output.note(&format!("{e:#}"));
            report.output = Some(output);
        }
        settle_output(outcome, report, self.lease.spec.missing_output)
    }

    async fn deliver(&self, result: &AttemptResult, stops: &mut Stops) -> Delivered {
        let (mut delivery, mut pauses) = (Delivery::default(), Pauses::default());
        loop {
            delivery.send();
            let results = self.agent.results.get_or_init(|| Results::deliver(self.agent.client.clone()));
            let mut sent = pin!(results.send(self.lease.attempt, result));
            let delivered = loop {
                tokio::select! {
                    sent = &mut sent => {
                        let answer = sent.map_or_else(|e| self.refusal(&e), |()| Answer::Taken);
                        break delivery.answer(answer);
                    }
                    () = lost(stops) => if let Some(delivered) = delivery.lose() { return delivered },
                }
            };
            if let Some(delivered) = delivered {
                return delivered;
            }
            if timeout(pauses.after_failure(), lost(stops)).await.is_ok()
                && let Some(delivered) = delivery.lose()
            {
                return delivered;
            }
        }
    }

    fn refusal(&self, error: &ClientError) -> Answer {
        if error.code() == Some("lease_superseded") {
            return Answer::Late;
        }
        if error.is_final() {
            tracing::error!(attempt = %self.lease.attempt, %error, "the queue does not take the result");
            return Answer::Refused;
        }
        tracing::warn!(attempt = %self.lease.attempt, %error, "the queue has not taken the result yet");
        Answer::Unknown
    }

    async fn upload(&self) -> Result<()> {
        let Some(path) = self.effects.session.as_ref().and_then(Session::output) else { return Ok(()) };
        let put = || async {
            let file = tokio::fs::File::open(path).await.context("cannot read them back")?;
            let put = self.agent.client.put_output(self.lease.attempt, self.lease.lease, file_body(file));
            put.await.map_err(anyhow::Error::from)
        };
        let may_succeed = |e: &anyhow::Error| e.downcast_ref::<ClientError>().is_some_and(|e| !e.is_final());
        put.retry(Pauses::default()).sleep(sleep).when(may_succeed).await
    }
}

/// Everything that a payload needs, once it is its turn.
async fn prepare(agent: &Agent, lease: &api::Lease, proxy: Option<String>, whole: Whole) -> Result<Staged> {
    PayloadSpec::parse(lease.spec.clone()).context("the queue sent a payload that cannot be run")?;
    let turn = async {
        agent.registry.turn(lease.lease, whole).await;
        Ok(())
    };
    let (mut staged, ()) = tokio::try_join!(stage(agent, lease, proxy), turn)?;
    staged.ports = ports(agent, lease).await?;
    Ok(staged)
}

/// Ports for a payload that asks for them, opened to the outside where the site has that done. A full range is waited for,
/// and said: it will pass.
async fn ports(agent: &Agent, lease: &api::Lease) -> Result<Option<OpenLease>> {
    let wanted = lease.spec.ports;
    let Some(ports) = &agent.ports else {
        anyhow::ensure!(
            wanted == 0,
            "the payload wants {wanted} ports, but this node has none: [ports] range in policy.toml"
        );
        return Ok(None);
    };
    let wanted = if wanted == 0 { ports.default } else { wanted };
    if wanted == 0 {
        return Ok(None);
    }
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        match ports.pool.lease(wanted) {
            Ok(lease) => {
                return OpenLease::open(lease, ports.opener.as_ref(), &agent.client).await.map(Some);
            }
            Err(e @ NoPorts::Full { .. }) if begun.elapsed() < ports.patience => {
                if told.is_none_or(|told| told.elapsed() > PORTS_REMIND) {
                    tracing::warn!(payload = %lease.payload, attempt = %lease.attempt, wanted,
                        waited_s = begun.elapsed().as_secs(), reason = %e, "payload waits for ports");
                    told = Some(Instant::now());
                }
                sleep(PORTS_PAUSE).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// When the walltime is over by more than `beyond`, counted from now if it is over already; without a walltime never.
fn time_end(started: Option<Instant>, walltime: Option<u64>, beyond: Duration) -> Option<Instant> {
    let end = started?.checked_add(Duration::from_secs(walltime?))?;
    end.max(Instant::now()).checked_add(beyond)
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => std::future::pending().await,
    }
}

fn launcher<'a>(agent: &'a Agent, lease: &'a api::Lease, staged: &Staged) -> Launch<'a> {
    Launch {
        switch: &agent.switch,
        runner: &agent.runner,
        attempt: lease.attempt,
        spec: &lease.spec,
        payload_proxy: staged.proxy(),
        pilot_proxy: &agent.proxy,
        account: &agent.node.account,
        batch_job: agent.node.batch_job.as_deref(),
        scratch: &agent.scratch,
        ports: staged.ports.as_ref().map(OpenLease::range),
    }
}

async fn lost(stops: &mut Stops) {
    while cut_short(stops).await != StopReason::Lost {}
}

/// Waits for a reason that counts even when the payload is over.
async fn cut_short(stops: &mut Stops) -> StopReason {
    while let Some(reason) = stops.recv().await {
        if reason >= StopReason::Cancel {
            return reason;
        }
    }
    std::future::pending().await
}

fn start(lease: &api::Lease, site_env: BTreeMap<String, String>) -> Start {
    Start {
        version: pilot_wire::VERSION,
        payload: lease.payload,
        attempt: lease.attempt,
        spec: lease.spec.clone(),
        site_env,
        scratch: None,
        proxy_copy: None,
        grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
    }
}

/// What the pilot says to the payload; `PILOT_SESSION` and `X509_USER_PROXY` come from `glexec`.
fn site_env(
    lease: &api::Lease,
    block: Option<PortRange>,
    variables: &[&Variable],
    dial_name: &str,
) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PILOT_PAYLOAD_ID".to_owned(), lease.payload.to_string())]);
    if let Some(index) = lease.array_index {
        env.insert("PILOT_ARRAY_INDEX".to_owned(), index.to_string());
    }
    if let Some(block) = block {
        env.extend(variables.iter().flat_map(|variable| variable.settings(block, dial_name)));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::RawSpec;
    use uuid::Uuid;

    fn lease(array_index: Option<u64>) -> api::Lease {
        let spec: RawSpec = serde_json::from_str(r#"{"command":["/bin/true"],"walltime":3}"#).unwrap();
        let owner = "/CN=u".to_owned();
        api::Lease {
            lease: Uuid::nil(),
            attempt: Uuid::nil(),
            number: 1,
            payload: Uuid::nil(),
            owner,
            spec,
            array_index,
            chain: None,
        }
    }

    #[test]
    fn ports_and_host_come_together_or_not_at_all() {
        let usual = policy::ports::variables::usual();
        let block = PortRange::parse("40000-40009").ok();
        let env = site_env(&lease(Some(4)), block, &usual, "nat.example.org");
        assert_eq!((env["PILOT_PORTS"].as_str(), env["PILOT_PORT_9"].as_str()), ("40000-40009", "40009"));
        assert_eq!(env["GLOBUS_TCP_PORT_RANGE"], "40000,40009");
        assert_eq!(
            (env["GLOBUS_HOSTNAME"].as_str(), env["PILOT_ARRAY_INDEX"].as_str()),
            ("nat.example.org", "4")
        );
        let env = site_env(&lease(None), None, &usual, "h");
        assert_eq!(env.keys().collect::<Vec<_>>(), ["PILOT_PAYLOAD_ID"]);
    }

    #[test]
    fn output_is_packed_for_a_while_beyond_the_walltime_and_for_ever_without_one() {
        let now = Instant::now();
        assert_eq!(time_end(Some(now), None, PACKING), None);
        let end = time_end(Some(now), Some(3600), PACKING).unwrap();
        assert!(end >= now + Duration::from_secs(3600) + PACKING);
        assert_eq!(time_end(Some(now), Some(u64::MAX), PACKING), None);
    }
}
