//! The queue's HTTP interface (see [`api`](pilot_api) for what travels).
//!
//! | module | calls |
//! |---|---|
//! | [`users`] | delegations, payloads |
//! | [`pilots`] | pilots, attempts |
//! | [`content`] | blobs, logs, output |
//! | [`events`] | changes of state, as they happen |
//!
//! Who is asking comes from the `transport::Peer` that the TLS server put on the request; [`User`] and [`PilotDn`]
//! turn it into a role or a refusal before anything of the request is looked at.

pub mod content;
pub mod events;
pub mod pilots;
pub mod problem;
pub mod users;

use crate::state::Queue;
use axum::RequestExt;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{Method, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use identity::VerifiedIdentity;
use pilot_api::Problem;
use pilot_core::event::Holder;
use problem::Refusal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Largest JSON body: long argument lists fit, floods do not.
const MAX_JSON: usize = 4 << 20;
/// Bodies up to this length are read without waiting for a turn.
const SMALL_BODY: usize = 64 << 10;
/// No request is held longer than this.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// All calls.
pub fn router(queue: Arc<Queue>) -> Router {
    let users = Router::new()
        .route("/delegations", post(users::delegate))
        .route("/delegations/{id}", put(users::sign))
        .route("/payloads", post(users::submit).get(users::list))
        .route("/events", get(events::stream))
        .route("/status", get(users::status))
        .route("/payloads/{id}", get(users::show))
        .route("/payloads/{id}/events", get(users::events))
        .route("/payloads/{id}/cancel", post(users::cancel))
        .route("/payloads/{id}/hold", post(users::hold))
        .route("/payloads/{id}/release", post(users::release))
        .route("/payloads/{id}/logs/{channel}", get(content::follow))
        .route("/payloads/{id}/output", get(content::output))
        .route("/blobs/{sha256}", put(content::upload).get(content::download));
    let pilots = Router::new()
        .route("/results", post(pilots::results))
        .route("/pilots", post(pilots::register).get(pilots::list))
        .route("/pilots/{id}/claim", post(pilots::claim))
        .route("/pilots/{id}/sync", post(pilots::sync))
        .route("/pilots/{id}/drain", post(pilots::drain))
        .route("/pilots/{id}/bye", post(pilots::bye))
        .route("/demand", get(pilots::demand))
        .route("/runs", get(pilots::runs))
        .route("/attempts/{id}/delegation", post(pilots::delegation))
        .route("/attempts/{id}/result", post(pilots::result))
        .route("/attempts/{id}/logs/{channel}", put(content::append))
        .route("/attempts/{id}/output", put(content::keep_output));
    Router::new()
        .nest("/v1", users.merge(pilots))
        .route("/healthz", get(healthz))
        .fallback(no_such_call)
        .method_not_allowed_fallback(no_such_method)
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(axum::middleware::from_fn(speaks))
        .with_state(queue)
}

/// Says which version of the interface this is, and refuses who speaks one that is no longer understood.
async fn speaks(request: Request, next: Next) -> Response {
    let version = request.headers().get(pilot_api::VERSION_HEADER);
    // Programs of before versions were counted say none.
    let version = version.map_or(Some(1), |v| v.to_str().ok()?.parse::<u32>().ok());
    let mut answer = match version {
        Some(pilot_api::OLDEST..) => next.run(request).await,
        _ => problem::too_old().into_response(),
    };
    answer.headers_mut().insert(pilot_api::VERSION_HEADER, pilot_api::VERSION.into());
    answer
}

async fn healthz(State(queue): State<Arc<Queue>>, _: User) -> Result<&'static str, Refusal> {
    queue.store.probe(crate::engine::now()).await?;
    queue.files.probe()?;
    Ok("ok")
}

async fn no_such_call(uri: Uri) -> Refusal {
    let mut problem = problem::unknown("call");
    problem.0.title = format!("there is no {}", identity::one_line(uri.path()));
    problem
}

async fn no_such_method(method: Method, uri: Uri) -> Refusal {
    let title = format!("{method} does not exist for {}", identity::one_line(uri.path()));
    Refusal(Problem { status: 405, code: "no_such_method".into(), ..problem::invalid(title).0 })
}

/// Anybody whom the TLS server has verified.
#[derive(Debug, Clone)]
pub struct User(pub Arc<VerifiedIdentity>);

impl User {
    /// Subject of the end-entity certificate.
    pub fn dn(&self) -> &str {
        self.0.subject.as_str()
    }

    /// Whether this subject may act as a pilot.
    pub fn may_be_pilot(&self, queue: &Queue) -> bool {
        queue.settings.pilots.contains(self.dn())
    }

    /// A limited proxy says that its holder may use the user's data, not act in the user's name (RFC 3820, section 3.8).
    pub fn full(&self) -> Result<(), Refusal> {
        if self.0.limited {
            let title = "a limited proxy cannot do this; connect with a full one";
            return Err(problem::forbidden("limited_proxy", title));
        }
        Ok(())
    }
}

impl<S: std::marker::Sync> FromRequestParts<S> for User {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let peer = parts.extensions.get::<transport::Peer>();
        let peer = peer.ok_or_else(|| {
            let refused = problem::invalid("connect with a client certificate or a proxy").0;
            Refusal(Problem { status: 401, code: "unauthenticated".into(), ..refused })
        })?;
        Ok(Self(peer.identity.clone()))
    }
}

/// Somebody who may act as a pilot, with the digest of the secret that it shows.
#[derive(Debug, Clone)]
pub struct PilotDn(pub Holder);

/// A secret is a word that nobody guesses.
const SECRET: std::ops::RangeInclusive<usize> = 32..=256;

/// What is kept of a secret. The subject is part of it and the key of the connection is not: a renewed proxy has another key.
fn digest(dn: &str, secret: &[u8]) -> String {
    let mut hash = openssl::sha::Sha256::new();
    for part in [dn.as_bytes(), b"\0", secret] {
        hash.update(part);
    }
    hex::encode(hash.finish())
}

impl FromRequestParts<Arc<Queue>> for PilotDn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, queue: &Arc<Queue>) -> Result<Self, Refusal> {
        let user = User::from_request_parts(parts, queue).await?;
        if !user.may_be_pilot(queue) {
            let title =
                format!("{} may not act as a pilot here; the operator adds it with --pilot-dn", user.dn());
            return Err(problem::forbidden("not_a_pilot", title));
        }
        // What was limited for data transfers registers no pilots and fetches nobody's proxy.
        user.full()?;
        let secret = match parts.headers.get(pilot_api::SECRET_HEADER).map(|value| value.as_bytes()) {
            Some(secret) if !SECRET.contains(&secret.len()) => {
                return Err(problem::invalid("pilot-secret: write 32 to 256 characters"));
            }
            secret => secret.map(|secret| digest(user.dn(), secret)),
        };
        Ok(Self(Holder { dn: user.dn().to_owned(), secret }))
    }
}

/// Somebody who may see what waits, whoever's it is.
#[derive(Debug, Clone)]
pub struct FactoryDn(pub String);

impl FromRequestParts<Arc<Queue>> for FactoryDn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, queue: &Arc<Queue>) -> Result<Self, Refusal> {
        let user = User::from_request_parts(parts, queue).await?;
        if !queue.settings.factories.contains(user.dn()) {
            let title = format!("{} is no factory here; the operator adds it with --factory-dn", user.dn());
            return Err(problem::forbidden("not_a_factory", title));
        }
        user.full()?;
        Ok(Self(user.dn().to_owned()))
    }
}

/// A JSON body; anything else is a problem that says where.
#[derive(Debug)]
pub struct Input<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<Queue>> for Input<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, queue: &Arc<Queue>) -> Result<Self, Refusal> {
        let bytes = bytes(request, queue, MAX_JSON).await?;
        // A call whose body may be left out has only optional fields.
        let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let value = serde_json::from_slice(text);
        value.map(Self).map_err(|e| problem::invalid(format!("the body is not as described: {e}")))
    }
}

/// The whole body, up to a limit. Large ones come in turns: what lies in memory until it is whole is bounded.
async fn bytes(mut request: Request, queue: &Arc<Queue>, limit: usize) -> Result<Bytes, Refusal> {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
    let _turn = match length {
        Some(..=SMALL_BODY) => None,
        _ => Some(match request.extract_parts::<User>().await {
            Ok(user) if !user.may_be_pilot(queue) => queue.bodies.turn(user.dn()).await,
            _ => queue.bodies.turn_of_many().await,
        }),
    };
    Bytes::from_request(request, queue).await.map_err(|e| match e.into_response_status() {
        413 => problem::too_large("body", limit as u64),
        _ => problem::invalid("the body broke off"),
    })
}

/// Status of axum's own rejections.
trait RejectionStatus {
    fn into_response_status(self) -> u16;
}

impl RejectionStatus for axum::extract::rejection::BytesRejection {
    fn into_response_status(self) -> u16 {
        self.status().as_u16()
    }
}

/// Runs a change to its end even when the client goes away meanwhile.
async fn detached<T, F>(change: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    tokio::spawn(change).await.map_err(|e| problem::internal("a task", &e))?
}

/// Runs something that computes or waits for a disk.
async fn blocking<T, E, F>(work: F) -> Result<T, Refusal>
where
    T: Send + 'static,
    E: Send + 'static,
    Refusal: From<E>,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    Ok(tokio::task::spawn_blocking(work).await.map_err(|e| problem::internal("a task", &e))??)
}

/// The id in a path.
#[derive(Debug, Clone, Copy)]
pub struct Id(pub Uuid);

impl<S: Send + std::marker::Sync> FromRequestParts<S> for Id {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Named {
            id: Uuid,
        }
        let path = Path::<Named>::from_request_parts(parts, state).await;
        path.map(|Path(named)| Self(named.id))
            .map_err(|_| problem::invalid("the id in the path is not a UUID"))
    }
}

/// The query of a URL; anything not understood is a problem.
#[derive(Debug)]
pub struct Asked<T>(pub T);

impl<S: Send + std::marker::Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|Query(q)| Self(q))
            .map_err(|e| problem::invalid(format!("the query is not understood: {e}")))
    }
}

/// How long a request may be held.
#[derive(Debug, Default, Deserialize)]
pub struct Hold {
    /// Seconds.
    #[serde(default)]
    pub wait: u64,
}

/// The end of a wait of `seconds`, but of `most` and a minute at most.
fn until(seconds: u64, most: Duration) -> Instant {
    Instant::now() + Duration::from_secs(seconds.min(3600)).min(most).min(MAX_WAIT)
}
