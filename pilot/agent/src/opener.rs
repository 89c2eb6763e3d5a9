//! The site's border, opened for the ports of a payload while it has them: `[ports] opener` in policy.toml.
//!
//! The service is `gridfw`, or the one of Grid'5000 whose interface that is. It looks up for itself whether the batch job is
//! ours and the node is, so an agent that is killed leaves nothing behind for longer than the job lasts.

use super::ports::PortLease;
use anyhow::{Result, bail};
use backon::Retryable;
use pilot_client::{Client, Pauses};
use policy::ports::PortRange;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

/// How long an opening is asked for before the payload goes back.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a closing is tried; the service closes at the end of the job what we cannot.
const FAREWELL: Duration = Duration::from_secs(15);
/// For one request.
const CALL: Duration = Duration::from_secs(10);
/// The largest answer that is read: a job's openings.
const MOST: usize = 256 << 10;
/// Where the URL names no site: a service that names none either takes any.
const SITE: &str = "here";

/// The number of the batch job that this agent runs in, by the variables of those systems that the service knows.
pub fn batch_job(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    ["OAR_JOB_ID", "OAR_JOBID", "SLURM_JOB_ID", "SLURM_JOBID"].iter().find_map(|name| variable(name)).filter(
        |id| {
            (1..=64).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        },
    )
}

/// The service that opens the border, and what is open there.
#[derive(Debug)]
pub struct Opener {
    url: String,
    /// This node's name.
    node: String,
    batch_job: Option<String>,
    state: Mutex<State>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The pilot's id: a job of our own queue.
    pilot: Option<Uuid>,
    /// Under which number of a job the service knows us.
    job: Option<String>,
    /// Whether it takes single openings back, which the original cannot.
    closes_one: bool,
    /// Ports that are open, or being opened or closed.
    open: BTreeSet<u16>,
    closing: usize,
}

/// What came of a request.
enum Answer {
    Done,
    /// One of its firewalls could not take it yet.
    Behind,
    NoJob(String),
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{url} refused to open ports {ports}: {reason}")]
    Refused { url: String, ports: String, reason: String },
    #[error("{url} did not open ports {ports}: {reason}")]
    Later { url: String, ports: String, reason: String },
}

impl Opener {
    /// `url` ends in `/sites/SITE`, or names no site; `node` is this node's name; `batch_job` its job's number.
    pub fn new(url: &str, node: &str, batch_job: Option<String>) -> Self {
        let url = url.trim_end_matches('/');
        let site = url.rsplit('/').nth(1) == Some("sites");
        let url = if site { url.to_owned() } else { format!("{url}/sites/{SITE}") };
        let (state, closed) = (Mutex::default(), Notify::new());
        Self { url, node: node.to_owned(), batch_job, state, closed }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes under which id the queue knows this pilot.
    pub fn registered(&self, pilot: Uuid) {
        self.state().pilot = Some(pilot);
    }

    /// Numbers under which the service may know us, the likeliest first.
    fn jobs(&self) -> Vec<String> {
        let state = self.state();
        match &state.job {
            Some(job) => vec![job.clone()],
            None => self.batch_job.clone().into_iter().chain(state.pilot.map(|id| id.to_string())).collect(),
        }
    }

    /// Returns when all closings are done, which takes a bounded time.
    pub async fn finish(&self) {
        let idle = async {
            loop {
                let closed = self.closed.notified();
                if self.state().closing == 0 {
                    return;
                }
                closed.await;
            }
        };
        timeout(FAREWELL + CALL, idle).await.ok();
    }

    /// The node's name for IPv6 where the name service has one (`wn1-ipv6.example.org`): the original takes no other.
    async fn name(&self) -> String {
        let (host, domain) = self.node.split_at(self.node.find('.').unwrap_or(self.node.len()));
        let twin = format!("{host}-ipv6{domain}");
        let found = timeout(CALL, tokio::net::lookup_host((twin.clone(), 0))).await;
        let is_known = found.is_ok_and(|found| found.is_ok_and(|mut all| all.next().is_some()));
        if is_known { twin } else { self.node.clone() }
    }

    async fn open(&self, client: &Client, ports: PortRange) -> Result<()> {
        let body = json!([{ "addr": self.name().await, "port": written(ports), "proto": "tcp+udp" }]);
        let give_up = Instant::now() + PATIENCE;
        let pauses = Pauses::default().take_while(move |pause| Instant::now() + *pause <= give_up);
        let try_jobs = || async {
            let mut unknown =
                "the service knows no job of ours: this is no job of OAR or Slurm, and no pilot yet"
                    .to_owned();
            for job in self.jobs() {
                match self.ask(client, Method::POST, &job, Some(&body), ports).await? {
                    Answer::NoJob(reason) => unknown = reason,
                    Answer::Done => {
                        self.state().job = Some(job);
                        return Ok(());
                    }
                    Answer::Behind => return self.settled(client, &job, ports, give_up).await,
                }
            }
            Err(self.refused(ports, unknown))
        };
        let retried =
            try_jobs.retry(pauses).sleep(sleep).when(|e: &Failed| matches!(e, Failed::Later { .. }));
        let told = retried.notify(|e, _| tracing::warn!(reason = %e, "trying again to open ports"));
        Ok(told.await?)
    }

    /// The opening is kept and one firewall has not got it: looks again until all have.
    async fn settled(
        &self,
        client: &Client,
        job: &str,
        ports: PortRange,
        give_up: Instant,
    ) -> Result<(), Failed> {
        self.state().job = Some(job.to_owned());
        let mut pauses = Pauses::default();
        while Instant::now() < give_up {
            sleep(pauses.after_failure()).await;
            if let Answer::Done = self.ask(client, Method::GET, job, None, ports).await? {
                return Ok(());
            }
        }
        Err(self.refused(ports, format!("one of its firewalls is behind for {} s", PATIENCE.as_secs())))
    }

    /// Gives back. The original closes all of a job or nothing, so there the last of our leases closes.
    async fn close(&self, client: &Client, ports: PortRange) {
        let (job, closes_one, last) = {
            let state = self.state();
            let others = state.open.iter().any(|port| !(ports.low()..=ports.high()).contains(port));
            (state.job.clone(), state.closes_one, !others)
        };
        let Some(job) = job else { return };
        if !closes_one && !last {
            return;
        }
        let body = json!([{ "addr": self.name().await, "port": written(ports), "proto": "tcp+udp" }]);
        let body = closes_one.then_some(&body);
        let call = || async { self.ask(client, Method::DELETE, &job, body, ports).await };
        let retried = call.retry(Pauses::default()).sleep(sleep).when(|e| matches!(e, Failed::Later { .. }));
        let why = match timeout(FAREWELL, retried).await {
            Ok(Ok(_)) => return tracing::info!(%ports, job, "ports closed at the border"),
            Ok(Err(e)) => e.to_string(),
            Err(_) => format!("{} does not answer", self.url),
        };
        tracing::warn!(%ports, job, reason = why, "ports are not closed at the border; they are at the end of the job");
    }

    async fn ask(
        &self,
        client: &Client,
        method: Method,
        job: &str,
        body: Option<&Value>,
        ports: PortRange,
    ) -> Result<Answer, Failed> {
        let later =
            |reason: String| Failed::Later { url: self.url.clone(), ports: ports.to_string(), reason };
        let request =
            client.elsewhere().request(method, format!("{}/firewall/{job}", self.url)).timeout(CALL);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        let answer = request.send().await.map_err(|e| later(cause(&e)))?;
        let status = answer.status();
        let server = answer.headers().get(reqwest::header::SERVER).map(|v| v.as_bytes().to_vec());
        let text = read(answer).await.map_err(later)?;
        tracing::debug!(job, %status, "opener answered");
        if status.is_success() {
            self.state().closes_one = server.is_some_and(|server| server.starts_with(b"gridfw"));
            return Ok(if status == StatusCode::ACCEPTED { Answer::Behind } else { Answer::Done });
        }
        let reason = format!("{status}: {}", message(&text));
        match status {
            StatusCode::NOT_FOUND => Ok(Answer::NoJob(reason)),
            // The job is just starting, or they have much to do.
            StatusCode::CONFLICT | StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => {
                Err(later(reason))
            }
            status if status.is_server_error() => Err(later(reason)),
            _ => Err(self.refused(ports, reason)),
        }
    }

    fn refused(&self, ports: PortRange, reason: String) -> Failed {
        Failed::Refused { url: self.url.clone(), ports: ports.to_string(), reason }
    }
}

/// `a..b` is the interface's form of a range.
fn written(ports: PortRange) -> String {
    format!("{}..{}", ports.low(), ports.high())
}

/// The last cause says most.
fn cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut text = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|e| cause(&e))? {
        text.extend_from_slice(&chunk);
        if text.len() > MOST {
            return Err(format!("its answer is longer than {MOST} bytes"));
        }
    }
    Ok(text)
}

/// What the service says to people; its whole answer where it says nothing in the usual place.
fn message(text: &[u8]) -> String {
    let value: Option<Value> = serde_json::from_slice(text).ok();
    let said = value.as_ref().and_then(|v| v.get("message").or_else(|| v.get("error"))?.as_str());
    let said = said.map_or_else(|| String::from_utf8_lossy(text).into_owned(), str::to_owned);
    identity::one_line(&said).chars().take(400).collect()
}

/// Ports of a payload that are open at the border; dropping it closes them there, and then begins their rest.
#[derive(Debug)]
pub struct OpenLease {
    ports: PortRange,
    held: Option<PortLease>,
    at: Option<(Arc<Opener>, Client)>,
}

impl OpenLease {
    /// Has the border opened, where there is somebody who does that.
    ///
    /// # Errors
    /// Why it is not open: the reason for giving the payload back.
    pub async fn open(held: PortLease, opener: Option<&Arc<Opener>>, client: &Client) -> Result<Self> {
        let ports = held.range();
        let at = opener.map(|opener| (Arc::clone(opener), client.clone()));
        // Made before it is asked for: an answer that nobody waits for any more may have opened.
        let lease = Self { ports, held: Some(held), at };
        if let Some((opener, client)) = &lease.at {
            opener.state().open.extend(ports.low()..=ports.high());
            if let Err(e) = opener.open(client, ports).await {
                bail!("the payload's ports cannot be reached from outside: {e:#}");
            }
            tracing::info!(%ports, "ports opened at the border");
        }
        Ok(lease)
    }

    /// The ports.
    pub fn range(&self) -> PortRange {
        self.ports
    }
}

impl Drop for OpenLease {
    fn drop(&mut self) {
        let (Some((opener, client)), ports) = (self.at.take(), self.ports) else { return };
        let held = self.held.take();
        opener.state().closing += 1;
        tokio::spawn(async move {
            opener.close(&client, ports).await;
            let mut state = opener.state();
            state.open.retain(|port| !(ports.low()..=ports.high()).contains(port));
            state.closing -= 1;
            drop(state);
            // Nobody gets these ports while they are open for somebody else.
            drop(held);
            opener.closed.notify_waiters();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_a_site_or_gets_one() {
        let url = |text| Opener::new(text, "wn1", None).url;
        assert_eq!(url("https://fw:8446"), "https://fw:8446/sites/here");
        assert_eq!(url("https://fw:8446/stable/"), "https://fw:8446/stable/sites/here");
        assert_eq!(
            url("https://api.grid5000.fr/stable/sites/nancy/"),
            "https://api.grid5000.fr/stable/sites/nancy"
        );
    }

    #[test]
    fn the_batch_job_comes_first_and_the_pilot_after_it() {
        let slurm = batch_job(|name| (name == "SLURM_JOB_ID").then(|| "4711".to_owned()));
        let opener = Opener::new("https://fw", "wn1", slurm);
        assert_eq!(opener.jobs(), ["4711"]);
        opener.registered(Uuid::nil());
        assert_eq!(opener.jobs(), ["4711".to_owned(), Uuid::nil().to_string()]);
        opener.state().job = Some("4711".into());
        assert_eq!(opener.jobs(), ["4711"]);
        assert_eq!(batch_job(|_| Some("../7".into())), None);
    }

    #[test]
    fn a_refusal_is_one_line_that_people_can_read() {
        assert_eq!(message(br#"{"code": 403, "message": "not\nyours"}"#), "not\\x0Ayours");
        assert_eq!(message(br#"{"error": "no"}"#), "no");
        assert_eq!(message(b"<html>"), "<html>");
    }

    /// The clock runs ahead while nothing happens, so that the whole patience passes.
    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_away_costs_a_bounded_time_and_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let pki = harness::pki::Pki::new(&dir.path().join("grid")).unwrap();
        let pilot = pki.robot("pilot", "Pilot").unwrap();
        let proxy = pki.grid_proxy(&pilot, &dir.path().join("pilot.pem"), &["-rfc"]).unwrap();
        let settings =
            pilot_client::Settings { queue: "https://q".into(), proxy, ca_dir: pki.ca_dir.clone() };
        let client = Client::new(&settings).unwrap();
        let pool = crate::ports::PortPool::in_directory(
            dir.path(),
            PortRange::parse("23900-23909").unwrap(),
            10,
            Duration::ZERO,
        );
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let opener = Arc::new(Opener::new(&format!("http://{free}"), "wn1", Some("7".into())));
        let begun = Instant::now();
        let lease = pool.as_ref().unwrap().lease(0).unwrap();
        let refused = OpenLease::open(lease, Some(&opener), &client).await.unwrap_err().to_string();
        assert!(begun.elapsed() < PATIENCE + 2 * CALL, "{:?}", begun.elapsed());
        let named = format!("http://{free}/sites/here did not open ports 23900-23909: ");
        assert!(refused.contains(&named), "{refused}");
        opener.finish().await;
        assert!(opener.state().open.is_empty() && pool.unwrap().lease(0).is_ok(), "the ports are free again");
    }
}
