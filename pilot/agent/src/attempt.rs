//! One lease from its receipt to its report: carries out what [`super::lease`] decides.

mod handover;

use super::Agent;
use super::launch::Launch;
use super::lease::{ChildExit, Conclusion, Effects, GRACE, LeaseEvent, LeaseMachine, PACKING, StopReason};
use super::opener::OpenLease;
use super::ports::NoPorts;
use super::registry::Whole;
use super::session::{Input, Session, SessionNews};
use super::spool::Shipped;
use super::stage::{Staged, stage};
use anyhow::{Context, Result};
use pilot_api::{self as api, PayloadSpec, PayloadState};
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
/// Logs on their way, by the name of the stream.
type Shipping = JoinSet<(&'static str, Shipped)>;

/// A lease just received.
pub struct Received {
    /// The lease.
    pub lease: api::Lease,
    /// The payload's proxy, when it came along.
    pub proxy: Option<String>,
    /// Reasons to stop.
    pub stops: Stops,
}

/// What holds for all leases of a pilot.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What the pilot has.
    pub whole: Whole,
    /// After this long without its turn a lease goes back.
    pub patience: Duration,
    /// How many bytes of each log and of the output a result may bring along.
    pub most_attached: u64,
}

/// Runs the payload of one lease.
pub async fn run(agent: Arc<Agent>, received: Received, terms: Terms) {
    let Received { lease, proxy, mut stops } = received;
    tracing::info!(payload = %lease.payload, attempt = %lease.attempt, number = lease.number, owner = lease.owner, "lease received");
    let effects =
        EffectRunner { agent: &agent, lease: lease.lease, session: None, force_at: None, conclusion: None };
    let machine = LeaseMachine::new(&agent.node.host, !lease.spec.outputs.is_empty());
    let mut work = Work { agent: &agent, lease: &lease, terms, machine, effects, user_refused: false };
    work.carry_out(proxy, &mut stops).await;
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
    terms: Terms,
    machine: LeaseMachine,
    effects: EffectRunner<'a>,
    /// Whether the site turned the user away.
    user_refused: bool,
}

impl Work<'_> {
    fn on(&mut self, event: LeaseEvent) {
        self.machine.on(event, &mut self.effects);
    }

    async fn carry_out(&mut self, proxy: Option<String>, stops: &mut Stops) {
        let staged = self.await_turn(proxy, stops).await;
        let mut shipping = Shipping::new();
        if let Ok(staged) = &staged {
            self.machine.set_ports(staged.ports.as_ref().map(|ports| ports.range().to_string()));
        }
        let started = match &staged {
            Ok(staged) => self.launch(staged).map_err(|e| ChildExit::Unprepared(format!("{e:#}"))),
            Err(exit) => Err(exit.clone()),
        };
        match started {
            Ok(session) => {
                shipping = self.ship(&session, self.terms.most_attached);
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
    async fn await_turn(&mut self, proxy: Option<String>, stops: &mut Stops) -> Result<Staged, ChildExit> {
        let (agent, lease, terms) = (self.agent, self.lease, self.terms);
        let mut ready = pin!(prepare(agent, lease, proxy, terms.whole));
        let mut patience = pin!(sleep(terms.patience));
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
        start.slot_end = self.agent.slot_end;
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
        slot_end: None,
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
