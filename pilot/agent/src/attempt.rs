//! One lease from its receipt to its report: carries out what [`super::lease`] decides.

use super::Agent;
use super::launch::Launch;
use super::lease::{Answer, Delivered, Delivery, Effects, Event, Exit, GRACE, Lease, Verdict, Wish};
use super::ports::Reservation;
use super::session::{Input, News, Session};
use super::stage::{Staged, stage};
use anyhow::{Context, Result};
use pilot_api::{AttemptResult, PayloadState, Report};
use pilot_client::{ClientError, file_body, pause};
use pilot_wire::{Cause, Start, ToAgent};
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

type Wishes = mpsc::UnboundedReceiver<Wish>;

/// Runs the payload of one lease.
pub async fn run(agent: Arc<Agent>, lease: pilot_api::Lease, ports: Option<Reservation>, mut wishes: Wishes) {
    tracing::info!(payload = %lease.payload, attempt = %lease.attempt, number = lease.number, owner = lease.owner, "lease received");
    let hands = Hands { agent: &agent, lease: lease.lease, session: None, force_at: None, verdict: None };
    let mut work = Work { agent: &agent, lease: &lease, machine: Lease::new(&agent.node.host), hands };
    work.carry_out(ports, &mut wishes).await;
    agent.registry.remove(lease.lease);
}

/// Does what the machine asks for.
struct Hands<'a> {
    agent: &'a Agent,
    lease: uuid::Uuid,
    session: Option<Session>,
    force_at: Option<Instant>,
    verdict: Option<Verdict>,
}

impl Effects for Hands<'_> {
    fn state(&mut self, state: PayloadState) {
        self.agent.registry.set_state(self.lease, state);
    }

    fn stop(&mut self, grace: Duration) {
        self.force_at = Some(Instant::now() + grace + FORCE);
        if let Some(session) = &self.session {
            session.stop(grace);
        }
    }

    fn finish(&mut self, verdict: Verdict) {
        self.verdict = Some(verdict);
    }
}

struct Work<'a> {
    agent: &'a Agent,
    lease: &'a pilot_api::Lease,
    machine: Lease,
    hands: Hands<'a>,
}

impl Work<'_> {
    fn on(&mut self, event: Event) {
        self.machine.on(event, &mut self.hands);
    }

    async fn carry_out(&mut self, ports: Option<Reservation>, wishes: &mut Wishes) {
        let staged = tokio::select! {
            staged = stage(self.agent, self.lease, ports) => staged,
            Some(wish) = wishes.recv() => {
                self.on(Event::Wished(wish));
                Err(anyhow::anyhow!("ended before the start"))
            }
        };
        let mut shipping = JoinSet::new();
        if let Ok(staged) = &staged {
            self.machine.set_ports(staged.ports.as_ref().map(|ports| ports.range().to_string()));
        }
        match staged
            .as_ref()
            .map_err(|e| format!("{e:#}"))
            .and_then(|s| self.launch(s).map_err(|e| format!("{e:#}")))
        {
            Ok(session) => {
                for (spool, stream) in session.logs().into_iter().zip(["stdout", "stderr"]) {
                    let client = self.agent.client.clone();
                    shipping.spawn(spool.ship(client, self.lease.attempt, self.lease.lease, stream));
                }
                self.hands.session = Some(session);
                self.attend(wishes).await;
            }
            Err(reason) => self.on(Event::Gone(Exit::Unprepared(reason))),
        }
        self.conclude(staged.as_ref().ok(), shipping, wishes).await;
        if let Ok(staged) = &staged {
            launcher(self.agent, self.lease, &staged.proxy()).clean_up();
        }
    }

    fn launch(&self, staged: &Staged) -> Result<Session> {
        let started = launcher(self.agent, self.lease, &staged.proxy()).start()?;
        let inputs = self.lease.spec.inputs.iter().enumerate().map(|(number, input)| Input {
            name: input.path.clone(),
            mode: input.mode,
            size: input.size,
            content: staged.input(number),
        });
        let ports = staged.ports.as_ref().map(|ports| ports.range().globus());
        let start = start(self.lease, site_env(self.lease, ports, &self.agent.dial_name));
        Session::begin(started, start, inputs.collect(), staged.dir.path())
    }

    /// Follows the session until it is over.
    async fn attend(&mut self, wishes: &mut Wishes) {
        let mut stopped_alone = false;
        while self.hands.verdict.is_none() {
            let Some(session) = self.hands.session.as_mut() else { return };
            let force_at = self.hands.force_at;
            let event = tokio::select! {
                news = session.next() => match news {
                    News::Message(ToAgent::Started(started)) => {
                        tracing::info!(payload = %self.lease.payload, attempt = %self.lease.attempt, account = started.account,
                            session = started.session, pid = started.pid, "payload started");
                        Event::Started(started)
                    }
                    News::Message(ToAgent::Ended(ended)) => {
                        stopped_alone = ended.cause == Cause::Stopped;
                        Event::Ended(ended)
                    }
                    News::Message(ToAgent::Done | ToAgent::Here { .. }) => continue,
                    News::Over(exit) => Event::Gone(exit),
                },
                Some(wish) = wishes.recv() => Event::Wished(wish),
                () = sleep_until(force_at.unwrap_or_else(Instant::now)), if force_at.is_some() => {
                    session.force();
                    self.hands.force_at = Some(Instant::now() + FORCE);
                    continue;
                }
            };
            if stopped_alone && matches!(event, Event::Gone(_)) {
                // A batch system signals all processes of a job: the reason may be on its way to us as well.
                if let Ok(Some(wish)) = timeout(SAME_SIGNAL, wishes.recv()).await {
                    self.on(Event::Wished(wish));
                }
            }
            self.on(event);
        }
    }

    /// Delivers logs, output and the result; only the loss of the lease cuts it short, and not once the queue has the
    /// result.
    async fn conclude(&mut self, staged: Option<&Staged>, mut shipping: JoinSet<()>, wishes: &mut Wishes) {
        let ids = (self.lease.payload, self.lease.attempt);
        let (outcome, report) = match self.hands.verdict.take() {
            Some(Verdict::Report(outcome, report)) => (outcome, report),
            Some(Verdict::Silent) | None => {
                tracing::info!(payload = %ids.0, attempt = %ids.1, "payload ended, lease handed back or lost");
                timeout(LAST_WORDS, async { while shipping.join_next().await.is_some() {} }).await.ok();
                return;
            }
        };
        tracing::info!(payload = %ids.0, attempt = %ids.1, outcome = %outcome, exit_code = report.exit_code,
            reason = report.reason, wall_ms = report.wall_ms, cpu_ms = report.cpu_ms, "payload ended");
        let delivered = tokio::select! {
            report = self.deliver_files(staged, shipping, report) => {
                let result = AttemptResult { lease: self.lease.lease, outcome, report };
                self.deliver(&result, wishes).await
            }
            () = lost(wishes) => Delivered::Lost,
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

    /// Logs and output; what could not be stored is added to the report.
    async fn deliver_files(
        &self,
        staged: Option<&Staged>,
        mut shipping: JoinSet<()>,
        mut report: Report,
    ) -> Report {
        while shipping.join_next().await.is_some() {}
        if let Err(e) = self.upload(staged).await {
            let text = format!("output files were not stored: {e:#}");
            tracing::error!(attempt = %self.lease.attempt, "{text}");
            report.reason = Some(report.reason.map_or(text.clone(), |reason| format!("{reason}; {text}")));
        }
        report
    }

    async fn deliver(&self, result: &AttemptResult, wishes: &mut Wishes) -> Delivered {
        let (mut delivery, mut failures) = (Delivery::default(), 0);
        loop {
            delivery.send();
            let mut sent = pin!(self.agent.client.result(self.lease.attempt, result));
            let delivered = loop {
                tokio::select! {
                    sent = &mut sent => {
                        let answer = sent.map_or_else(|e| self.refusal(&e), |()| Answer::Taken);
                        break delivery.answer(answer);
                    }
                    () = lost(wishes) => if let Some(delivered) = delivery.lose() { return delivered },
                }
            };
            if let Some(delivered) = delivered {
                return delivered;
            }
            failures += 1;
            if timeout(pause(failures, fastrand::f64()), lost(wishes)).await.is_ok()
                && let Some(delivered) = delivery.lose()
            {
                return delivered;
            }
        }
    }

    fn refusal(&self, error: &ClientError) -> Answer {
        if error.is_transient() {
            return Answer::Unknown;
        }
        if error.code() == Some("lease_superseded") {
            return Answer::Late;
        }
        tracing::error!(attempt = %self.lease.attempt, %error, "the queue does not take the result");
        Answer::Refused
    }

    async fn upload(&self, staged: Option<&Staged>) -> Result<()> {
        let size = self.hands.session.as_ref().map_or(0, Session::output_size);
        let Some(staged) = staged.filter(|_| size > 0) else { return Ok(()) };
        let path = staged.dir.path().join("output.tar");
        let mut failures = 0;
        loop {
            let file = tokio::fs::File::open(&path).await.context("cannot read them back")?;
            match self.agent.client.put_output(self.lease.attempt, self.lease.lease, file_body(file)).await {
                Ok(()) => return Ok(()),
                Err(e) if !e.is_transient() => return Err(e.into()),
                Err(_) => failures += 1,
            }
            sleep(pause(failures, fastrand::f64())).await;
        }
    }
}

fn launcher<'a>(agent: &'a Agent, lease: &pilot_api::Lease, proxy: &std::path::Path) -> Launch<'a> {
    let (attempt, payload_proxy) = (lease.attempt, proxy.to_owned());
    Launch {
        switch: &agent.switch,
        attempt,
        payload_proxy,
        pilot_proxy: &agent.proxy,
        account: &agent.node.account,
    }
}

async fn lost(wishes: &mut Wishes) {
    while let Some(wish) = wishes.recv().await {
        if wish == Wish::Lost {
            return;
        }
    }
    std::future::pending().await
}

fn start(lease: &pilot_api::Lease, site_env: BTreeMap<String, String>) -> Start {
    let spec = &lease.spec;
    Start {
        version: pilot_wire::VERSION,
        payload: lease.payload,
        attempt: lease.attempt,
        command: spec.command.clone(),
        env: spec.env.clone(),
        site_env,
        outputs: spec.outputs.clone(),
        walltime_ms: spec.walltime.map(|s| s.saturating_mul(1000)),
        memory: spec.memory,
        grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
    }
}

/// What the pilot says to the payload; `PILOT_SESSION` and `X509_USER_PROXY` come from `glexec`.
fn site_env(lease: &pilot_api::Lease, ports: Option<String>, dial_name: &str) -> BTreeMap<String, String> {
    let mut env = BTreeMap::from([("PILOT_PAYLOAD_ID".to_owned(), lease.payload.to_string())]);
    if let Some(index) = lease.array_index {
        env.insert("PILOT_ARRAY_INDEX".to_owned(), index.to_string());
    }
    if let Some(ports) = ports {
        env.insert("GLOBUS_TCP_PORT_RANGE".to_owned(), ports);
        env.insert("GLOBUS_HOSTNAME".to_owned(), dial_name.to_owned());
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;
    use pilot_api::PayloadSpec;
    use uuid::Uuid;

    fn lease(array_index: Option<u64>) -> pilot_api::Lease {
        let spec: PayloadSpec = serde_json::from_str(r#"{"command":["/bin/true"],"walltime":3}"#).unwrap();
        let owner = "/CN=u".to_owned();
        pilot_api::Lease {
            lease: Uuid::nil(),
            attempt: Uuid::nil(),
            number: 1,
            payload: Uuid::nil(),
            owner,
            spec,
            array_index,
        }
    }

    #[test]
    fn ports_and_host_come_together_or_not_at_all() {
        let env = site_env(&lease(Some(4)), Some("40000,40009".into()), "nat.example.org");
        assert_eq!(env["GLOBUS_TCP_PORT_RANGE"], "40000,40009");
        assert_eq!(
            (env["GLOBUS_HOSTNAME"].as_str(), env["PILOT_ARRAY_INDEX"].as_str()),
            ("nat.example.org", "4")
        );
        let env = site_env(&lease(None), None, "h");
        assert_eq!(env.keys().collect::<Vec<_>>(), ["PILOT_PAYLOAD_ID"]);
    }

    #[test]
    fn the_walltime_reaches_the_runner_in_milliseconds() {
        assert_eq!(start(&lease(None), BTreeMap::new()).walltime_ms, Some(3000));
    }
}
