//! A firewall elsewhere: the same program holds openings there, told by the service that decides.
//!
//! An agent keeps nothing but the packet filter itself. It says which version it holds, and none after a restart: then it is
//! told everything.

use crate::backend::{Firewall, Version};
use crate::elements::{Change, Element};
use crate::http::{Refused as NotDone, refuse};
use crate::system::Host;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Extension, Json, Router};
use identity::{Dn, same_name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use transport::Peer;

/// For a call and its answer; ten thousand openings are sent in less than a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// The largest body: about a hundred thousand elements.
const MOST: usize = 32 << 20;

const VERSION: &str = "/agent/v1/version";
const CHANGE: &str = "/agent/v1/change";
const ALL: &str = "/agent/v1/all";
const CUT: &str = "/agent/v1/cut";

/// A change, or everything, with the version that it leads to.
#[derive(Debug, Serialize, Deserialize)]
struct Step<T> {
    from: Version,
    to: Version,
    what: T,
}

/// The one that decides, as it sees an agent.
#[derive(Debug)]
pub struct Remote {
    /// `https://HOST:PORT`, without a path.
    pub url: String,
    /// The certificate that is shown, read for each call, so that a renewed one is taken.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who may have signed the agent's.
    pub ca_dir: PathBuf,
    /// Where calls run.
    pub host: Host,
}

impl Remote {
    fn call(&self, method: reqwest::Method, path: &str, body: &impl Serialize) -> Result<String, String> {
        let client = transport::client(&self.cert, Some(&self.key), &self.ca_dir, PATIENCE)
            .map_err(|e| e.to_string())?;
        let body = serde_json::to_string(body).map_err(|e| e.to_string())?;
        let request = client.request(method, format!("{}{path}", self.url)).body(body);
        self.host.wait(async {
            let answer = request.send().await.map_err(|e| reason(&e))?;
            let status = answer.status();
            let text = answer.text().await.map_err(|e| reason(&e))?;
            match status.is_success() {
                true => Ok(text),
                false => Err(format!("{status}: {}", crate::openings::cut(&text))),
            }
        })
    }
}

/// The last cause is the one that says something.
pub fn reason(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl Firewall for Remote {
    fn name(&self) -> &str {
        &self.url
    }

    fn change(&self, change: &Change, from: &Version, to: &Version) -> Result<(), String> {
        let step = Step { from: from.clone(), to: to.clone(), what: change };
        self.call(reqwest::Method::POST, CHANGE, &step).map(drop)
    }

    fn replace(&self, all: &BTreeSet<Element>, to: &Version) -> Result<(), String> {
        let step = Step { from: Version::default(), to: to.clone(), what: all };
        self.call(reqwest::Method::PUT, ALL, &step).map(drop)
    }

    fn holds(&self, version: &Version) -> Result<bool, String> {
        let text = self.call(reqwest::Method::GET, VERSION, &())?;
        serde_json::from_str::<Option<Version>>(&text)
            .map(|held| held.as_ref() == Some(version))
            .map_err(|e| e.to_string())
    }

    fn cut(&self, hosts: &BTreeSet<IpAddr>) -> Result<(), String> {
        self.call(reqwest::Method::POST, CUT, hosts).map(drop)
    }
}

/// What an agent works with.
pub struct Agent {
    /// What it holds openings with.
    pub firewall: Box<dyn Firewall>,
    /// Subjects of those that may tell it what to hold.
    pub masters: Vec<Dn>,
    /// What it holds; nothing is known after the start.
    pub held: Mutex<Option<Version>>,
}

/// Why an agent does not do what it is told.
enum Refused {
    /// It holds something else.
    Elsewhere,
    /// The packet filter failed.
    Failed(String),
}

impl Agent {
    /// Nobody knows what the filter holds while a step is made, nor after one that failed.
    fn step(
        &self,
        from: Option<&Version>,
        to: Option<Version>,
        work: impl FnOnce(&dyn Firewall) -> Result<(), String>,
    ) -> Result<(), Refused> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if from.is_some_and(|from| held.as_ref() != Some(from)) {
            return Err(Refused::Elsewhere);
        }
        let before = held.take();
        work(self.firewall.as_ref()).map_err(Refused::Failed)?;
        *held = to.or(before);
        Ok(())
    }

    fn version(&self) -> Option<Version> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        // Somebody may have flushed what we held.
        self.firewall.holds(&held).unwrap_or(false).then_some(held)
    }
}

/// The routes of an agent.
pub fn router(agent: Arc<Agent>) -> Router {
    let nothing =
        || async { refuse(StatusCode::NOT_FOUND, "this is an agent: the interface for jobs is elsewhere") };
    Router::new()
        .route(VERSION, get(version))
        .route(CHANGE, post(change))
        .route(ALL, put(all))
        .route(CUT, post(cut))
        .fallback(nothing)
        .with_state(agent)
}

async fn body<T: DeserializeOwned>(agent: &Agent, peer: &Peer, body: Body) -> Result<T, NotDone> {
    admit(agent, peer)?;
    let read = tokio::time::timeout(PATIENCE, to_bytes(body, MOST)).await;
    let bytes = match read {
        Ok(Ok(bytes)) => bytes,
        _ => return Err(refuse(StatusCode::BAD_REQUEST, "the body is too large or too slow")),
    };
    serde_json::from_slice(&bytes).map_err(|e| refuse(StatusCode::BAD_REQUEST, e.to_string()))
}

fn admit(agent: &Agent, peer: &Peer) -> Result<(), NotDone> {
    let subject = &peer.identity.subject;
    match agent.masters.iter().any(|master| same_name(master.as_str(), subject.as_str())) {
        true => Ok(()),
        false => {
            tracing::warn!(subject = ?subject.as_str(), "refused: not in [agent] masters");
            Err(refuse(
                StatusCode::FORBIDDEN,
                format!("{subject} may not say what is open here; name it in [agent] masters"),
            ))
        }
    }
}

async fn done(work: impl FnOnce() -> Result<(), Refused> + Send + 'static) -> Response {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(Refused::Elsewhere)) => {
            refuse(StatusCode::CONFLICT, "something else is held here; send everything").into_response()
        }
        Ok(Err(Refused::Failed(reason))) => {
            tracing::error!(%reason, "not done");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, reason).into_response()
        }
        Err(e) => refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn version(
    State(agent): State<Arc<Agent>>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, NotDone> {
    admit(&agent, &peer)?;
    let version = tokio::task::spawn_blocking(move || agent.version()).await;
    Ok(Json(version.unwrap_or_default()).into_response())
}

async fn change(
    State(agent): State<Arc<Agent>>,
    Extension(peer): Extension<Peer>,
    text: Body,
) -> Result<Response, NotDone> {
    let step: Step<Change> = body(&agent, &peer, text).await?;
    Ok(done(move || {
        agent.step(Some(&step.from), Some(step.to.clone()), |f| f.change(&step.what, &step.from, &step.to))
    })
    .await)
}

async fn all(
    State(agent): State<Arc<Agent>>,
    Extension(peer): Extension<Peer>,
    text: Body,
) -> Result<Response, NotDone> {
    let step: Step<BTreeSet<Element>> = body(&agent, &peer, text).await?;
    tracing::info!(elements = step.what.len(), "everything is told anew");
    Ok(done(move || agent.step(None, Some(step.to.clone()), |f| f.replace(&step.what, &step.to))).await)
}

async fn cut(
    State(agent): State<Arc<Agent>>,
    Extension(peer): Extension<Peer>,
    text: Body,
) -> Result<Response, NotDone> {
    let hosts: BTreeSet<IpAddr> = body(&agent, &peer, text).await?;
    Ok(done(move || agent.firewall.cut(&hosts).map_err(Refused::Failed)).await)
}
