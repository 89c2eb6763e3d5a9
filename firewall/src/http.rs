//! The interface: paths, answers, status codes.

use crate::config::is_site;
use crate::decide::Refusal;
use crate::keeper::{Done, Failure, Keeper};
use crate::openings::{self, Asked, Opening};
use crate::who::{self, Now, Shown, Unknown};
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use batch::jobs::{Phase, SiteJob};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use transport::Peer;

/// The largest body that is read.
const MOST: usize = 256 << 10;
/// For the body of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the routes share.
#[derive(Clone)]
pub struct Service {
    /// What is open.
    pub keeper: Arc<Keeper>,
    /// Who is believed.
    pub believed: Now,
    /// Names of the site; any when there is none.
    pub sites: Arc<[String]>,
}

/// The routes, each also below `/stable`, where clients of Grid'5000 look.
pub fn router(service: Service) -> Router {
    let routes = Router::new()
        .route("/sites/{site}/firewall/{job}", get(show).post(open).delete(close))
        .route("/sites/{site}", get(site))
        .route("/sites/{site}/jobs/{job}", get(job));
    let nothing = || async {
        refuse(StatusCode::NOT_FOUND, "there is nothing here; the interface is at /sites/SITE/firewall/JOBID")
    };
    let method = || async { refuse(StatusCode::METHOD_NOT_ALLOWED, "POST opens, GET shows, DELETE closes") };
    Router::new()
        .merge(routes.clone())
        .nest("/stable", routes)
        .method_not_allowed_fallback(method)
        .fallback(nothing)
        // By this name a pilot knows that single openings can be closed.
        .layer(axum::middleware::map_response(async |mut response: Response| {
            let name = concat!("gridfw/", env!("CARGO_PKG_VERSION"));
            response.headers_mut().insert(header::SERVER, header::HeaderValue::from_static(name));
            response
        }))
        .with_state(service)
}

/// What is not done, and why.
#[derive(Debug)]
pub struct Refused(StatusCode, String);

/// With the reason that the sender reads.
pub fn refuse(status: StatusCode, message: impl Into<String>) -> Refused {
    Refused(status, message.into())
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(status, message) = self;
        let body = json!({ "code": status.as_u16(), "title": status.canonical_reason(), "message": message });
        let mut response = (status, Json(body)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let basic = header::HeaderValue::from_static("Basic realm=\"gridfw\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, basic);
        }
        response
    }
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        let status = match &failure {
            Failure::Bad(_) => StatusCode::BAD_REQUEST,
            Failure::Refused(Refusal::NoJob(_)) => StatusCode::NOT_FOUND,
            Failure::Refused(Refusal::Forbidden(_)) => StatusCode::FORBIDDEN,
            Failure::Refused(Refusal::TooEarly(_)) => StatusCode::CONFLICT,
            Failure::Away(_) => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Store(_) | Failure::NotCut(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        tracing::warn!(status = status.as_u16(), reason = %failure, "not done");
        refuse(status, failure.to_string())
    }
}

/// 200 when every firewall has it, else 202. The body is what old clients expect: the openings.
fn answer(done: Done, hints: &[Vec<String>]) -> Response {
    let mut openings: Vec<Value> = done.openings.iter().map(Opening::to_json).collect();
    for (opening, hints) in openings.iter_mut().zip(hints).filter(|(_, hints)| !hints.is_empty()) {
        opening["hint"] = hints.join("; ").into();
    }
    let Some(behind) = done.behind.first() else { return (StatusCode::OK, Json(openings)).into_response() };
    let mut response = (StatusCode::ACCEPTED, Json(openings)).into_response();
    // A header for people: the body stays what clients can read.
    let printable: String = behind
        .chars()
        .map(|c| if c == '"' || c == '\\' || !(' '..='~').contains(&c) { ' ' } else { c })
        .take(300)
        .collect();
    let text = format!("199 gridfw \"a firewall is behind and is tried again: {printable}\"");
    if let Ok(value) = header::HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::WARNING, value);
    }
    response
}

/// Who asks about what.
struct Case {
    who: String,
    job: String,
}

struct Request<'a> {
    service: &'a Service,
    peer: Option<&'a Peer>,
    from: SocketAddr,
    headers: &'a HeaderMap,
}

impl Request<'_> {
    fn who(&self) -> Result<String, Refused> {
        let names = ["x-api-user-cn", "x-remote-ident"];
        let headers = names
            .iter()
            .flat_map(|name| self.headers.get_all(*name))
            .map(header::HeaderValue::as_bytes)
            .collect();
        let basic = self.headers.get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
        let shown = Shown { subject: self.peer.map(|peer| &peer.identity.subject), headers, basic };
        let found = who::who(self.from.ip(), &shown, &self.service.believed.get());
        found.map(|login| login.as_str().to_owned()).map_err(|unknown| {
            let status = match &unknown {
                Unknown::Nobody(_) => StatusCode::UNAUTHORIZED,
                Unknown::NoLogin(_) => StatusCode::FORBIDDEN,
            };
            tracing::warn!(from = %self.from, reason = %unknown, "not believed");
            refuse(status, unknown.to_string())
        })
    }

    fn site(&self, site: &str) -> Result<(), Refused> {
        let sites = &self.service.sites;
        match is_site(site) && (sites.is_empty() || sites.iter().any(|one| one == site)) {
            true => Ok(()),
            false => Err(refuse(
                StatusCode::NOT_FOUND,
                format!("site {:?} is not here; this is {}", openings::cut(site), sites.join(", ")),
            )),
        }
    }

    fn case(&self, site: &str, job: &str) -> Result<Case, Refused> {
        let who = self.who()?;
        self.site(site)?;
        let good = (1..=64).contains(&job.len())
            && job.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        match good {
            true => Ok(Case { who, job: job.to_owned() }),
            false => Err(refuse(
                StatusCode::BAD_REQUEST,
                format!("{:?} is no number of a job", openings::cut(job)),
            )),
        }
    }
}

type Origin = ConnectInfo<SocketAddr>;
type Subject = Option<Extension<Peer>>;

/// The keeper blocks: it asks programs and writes files.
async fn off_the_loop<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Refused> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(Refused::from),
        Err(e) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, e.to_string())),
    }
}

async fn read(body: Body) -> Result<axum::body::Bytes, Refused> {
    match tokio::time::timeout(PATIENCE, to_bytes(body, MOST)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let reason = format!("the body is larger than {MOST} bytes; send several requests");
            Err(refuse(StatusCode::PAYLOAD_TOO_LARGE, reason))
        }
        Err(_) => {
            Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come within 10 s; send it again"))
        }
    }
}

fn openings(body: &[u8]) -> Result<Vec<Asked>, Refused> {
    openings::parse(body).map_err(|e| Refused::from(Failure::Bad(e.to_string())))
}

async fn open(
    State(service): State<Service>,
    ConnectInfo(from): Origin,
    peer: Subject,
    Path((site, job)): Path<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let request = Request { service: &service, peer: peer.as_deref(), from, headers: &headers };
    let Case { who, job } = request.case(&site, &job)?;
    let asked = openings(&read(body).await?)?;
    let hints: Vec<Vec<String>> = asked.iter().map(|one: &Asked| one.hints.clone()).collect();
    let keeper = Arc::clone(&service.keeper);
    let done = off_the_loop(move || keeper.open(&who, &job, &asked)).await?;
    Ok(answer(done, &hints))
}

async fn show(
    State(service): State<Service>,
    ConnectInfo(from): Origin,
    peer: Subject,
    Path((site, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let request = Request { service: &service, peer: peer.as_deref(), from, headers: &headers };
    let Case { who, job } = request.case(&site, &job)?;
    let keeper = Arc::clone(&service.keeper);
    let done = off_the_loop(move || keeper.show(&who, &job)).await?;
    Ok(answer(done, &[]))
}

async fn close(
    State(service): State<Service>,
    ConnectInfo(from): Origin,
    peer: Subject,
    Path((site, job)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let request = Request { service: &service, peer: peer.as_deref(), from, headers: &headers };
    let Case { who, job } = request.case(&site, &job)?;
    let cut = match query.get("flush").map(String::as_str) {
        None | Some("0" | "false") => false,
        Some("1" | "true") => true,
        Some(_) => return Err(refuse(StatusCode::BAD_REQUEST, "flush: write 1 to cut connections, or 0")),
    };
    // An extension: with a body, only what it names. Clients of the original send none.
    let body = read(body).await?;
    let which = if body.is_empty() { None } else { Some(openings(&body)?) };
    let keeper = Arc::clone(&service.keeper);
    let done = off_the_loop(move || keeper.close(&who, &job, which.as_deref(), cut)).await?;
    Ok(answer(done, &[]))
}

/// Clients look at the site before they look at its jobs.
async fn site(
    State(service): State<Service>,
    ConnectInfo(from): Origin,
    peer: Subject,
    Path(site): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let request = Request { service: &service, peer: peer.as_deref(), from, headers: &headers };
    request.who()?;
    request.site(&site)?;
    Ok(Json(json!({ "uid": site, "type": "site" })).into_response())
}

/// And at the job, whose answer holds what they build the path of its firewall from.
async fn job(
    State(service): State<Service>,
    ConnectInfo(from): Origin,
    peer: Subject,
    Path((site, job)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let request = Request { service: &service, peer: peer.as_deref(), from, headers: &headers };
    let Case { who, job } = request.case(&site, &job)?;
    let keeper = Arc::clone(&service.keeper);
    let job = off_the_loop(move || keeper.job(&who, &job)).await?;
    Ok(Json(job_json(&site, &job)).into_response())
}

fn job_json(site: &str, job: &SiteJob) -> Value {
    let state = match job.phase {
        Phase::Waiting => "waiting",
        Phase::Running => "running",
    };
    // Numbers are numbers for these clients.
    let uid = job.id.parse::<u64>().map_or_else(|_| Value::from(job.id.clone()), Value::from);
    json!({ "uid": uid, "site": site, "site_uid": site, "state": state, "user": job.owner, "user_uid": job.owner,
        "assigned_nodes": job.nodes })
}
