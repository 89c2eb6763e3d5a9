//! Routes and answers. Every answer that is none is JSON, `{"error": "..."}`, and names the parameter, field or remedy.

use super::openapi;
use super::question::{self, BadQuestion, Sessions, WhoWas};
use super::scope::{self, Forbidden, Scope};
use super::site::{self, Page, Site};
use crate::filter::Filter;
use crate::filter_args::{Between, Summary};
use crate::store::StoreError;
use crate::tree;
use crate::upload::{MOST_BYTES, MOST_RECORDS, Results, Upload};
use crate::view::{Answer, View};
use crate::when::Moment;
use crate::{rows, sum_view};
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use identity::Dn;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use transport::Peer;

/// For the body of an upload.
const PATIENCE: Duration = Duration::from_secs(60);
/// Requests that work at once; each may hold an upload or a page in memory.
const SLOTS: usize = 16;

type Pairs = Query<Vec<(String, String)>>;

/// What the routes share.
#[derive(Clone)]
pub struct Shared {
    site: Arc<Site>,
    slots: Arc<Semaphore>,
}

/// The routes.
pub fn router(site: Arc<Site>) -> Router {
    let shared = Shared { site, slots: Arc::new(Semaphore::new(SLOTS)) };
    Router::new()
        .route("/v1/sessions", get(sessions).post(upload))
        .route("/v1/sessions/{id}", get(one))
        .route("/v1/sessions/{id}/events", get(events))
        .route("/v1/running", post(running))
        .route("/v1/whowas", get(who_was))
        .route("/v1/tree", get(trees))
        .route("/v1/summary", get(summary))
        .route("/v1/reconcile", get(reconcile))
        .route("/v1/openapi.json", get(async || Json(openapi::document())))
        .route("/healthz", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "no such resource; see /v1/openapi.json"))
        .with_state(shared)
}

/// Status and reason.
#[derive(Debug)]
pub struct Refusal(StatusCode, String);

impl Refusal {
    fn new(status: StatusCode, why: impl Into<String>) -> Self {
        Self(status, why.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, why) = self;
        let body = Json(json!({ "error": why }));
        match status {
            StatusCode::SERVICE_UNAVAILABLE => (status, [(header::RETRY_AFTER, "5")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

impl From<Forbidden> for Refusal {
    fn from(why: Forbidden) -> Self {
        Self::new(StatusCode::FORBIDDEN, why.to_string())
    }
}

impl From<BadQuestion> for Refusal {
    fn from(why: BadQuestion) -> Self {
        Self::new(StatusCode::BAD_REQUEST, why.to_string())
    }
}

impl From<StoreError> for Refusal {
    fn from(why: StoreError) -> Self {
        tracing::error!(reason = %why, "the store gives no answer");
        // A full disk is mended, and a writer ends: worth another try.
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "the store gives no answer now; the server's log says why")
    }
}

/// A form in which records are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Lines,
    Csv,
}

fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("*/*");
    let known = |name: &str| match name.split(';').next().unwrap_or_default().trim() {
        "application/json" | "*/*" | "application/*" => Some(Form::Json),
        "application/x-ndjson" => Some(Form::Lines),
        "text/csv" | "text/*" => Some(Form::Csv),
        _ => None,
    };
    accept.split(',').find_map(known).ok_or_else(|| {
        let why = "accept application/json, application/x-ndjson or text/csv";
        Refusal::new(StatusCode::NOT_ACCEPTABLE, why)
    })
}

impl Shared {
    /// Runs what reads files or computes beside the threads that serve others; more than some at once are turned away.
    async fn work<T: Send + 'static>(
        &self,
        task: impl FnOnce(&Site) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = || Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests at once; try again");
        let slot = self.slots.clone().try_acquire_owned().map_err(|_| busy())?;
        let site = self.site.clone();
        let done = tokio::task::spawn_blocking(move || {
            let result = task(&site);
            drop(slot);
            result
        });
        let result = done.await.unwrap_or_else(|e| {
            tracing::error!(reason = %e, "a request failed");
            Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server failed; its log says why"))
        });
        result.inspect_err(|Refusal(status, why)| {
            self.site.note_refused();
            tracing::warn!(status = status.as_u16(), reason = ?why, "request refused");
        })
    }

    /// What a caller may ask; the question is noted before it is answered.
    fn ask(site: &Site, caller: &Dn, uri: &Uri) -> Result<Scope, Refusal> {
        let scope = scope::of(&site.config().readers, caller);
        let what = uri.path_and_query().map_or("/", |p| p.as_str());
        site.note_question(caller.as_str(), scope.word(), what)?;
        Ok(scope)
    }
}

async fn upload(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Json<Results>, Refusal> {
    let upload = read(body).await?;
    let caller = peer.identity.subject.clone();
    let taken = shared.work(move |site| {
        let brings = scope::brings(&site.config().writers, &caller)?;
        let taken = site.take(&upload, &brings)?;
        tracing::info!(sender = ?caller.as_str(), records = taken.results.len(), "records taken");
        Ok(taken)
    });
    taken.await.map(Json)
}

async fn running(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Result<Json<Results>, Refusal> {
    let upload = read(body).await?;
    let caller = peer.identity.subject.clone();
    let noted = shared.work(move |site| {
        let brings = scope::brings(&site.config().writers, &caller)?;
        let sender = site::sender(&brings, &upload, caller.as_str());
        Ok(site.note_running(&sender, &upload, &brings))
    });
    noted.await.map(Json)
}

async fn read(body: Body) -> Result<Upload, Refusal> {
    let bad = |why: String| Refusal::new(StatusCode::BAD_REQUEST, why);
    let bytes = match tokio::time::timeout(PATIENCE, to_bytes(body, MOST_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => {
            let why = format!("more than {MOST_BYTES} bytes, or cut off; send fewer records at once");
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        Err(_) => return Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body came too slowly")),
    };
    let upload: Upload =
        serde_json::from_slice(&bytes).map_err(|e| bad(format!("the body is no upload: {e}")))?;
    match upload.records.len() {
        n if n > MOST_RECORDS => Err(bad(format!("records: {n} at once, and {MOST_RECORDS} is the most"))),
        _ => Ok(upload),
    }
}

async fn sessions(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    uri: Uri,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let form = form(&headers)?;
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let asked: Sessions = question::parse(&pairs)?;
        let filter = scope.narrow(asked.filter())?;
        shown(form, &filter, &site.page(&filter, asked.cursor, asked.limit)?)
    });
    answer.await
}

async fn who_was(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    uri: Uri,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let form = form(&headers)?;
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let filter = scope.narrow(question::parse::<WhoWas>(&pairs)?.filter())?;
        shown(form, &filter, &site.page(&filter, None, question::MOST)?)
    });
    answer.await
}

fn shown(form: Form, filter: &Filter, page: &Page) -> Result<Response, Refusal> {
    let Page { records, next } = page;
    let next = next.map(|cursor| cursor.to_string());
    let count = records.len();
    let (kind, text) = match form {
        Form::Json => {
            let answer = Answer::new(filter, records.iter().map(View::new).collect()).with_next(next.clone());
            ("application/json", answer.to_json().map_err(failed)?)
        }
        Form::Lines => {
            // Whoever sees no last line knows that the answer was cut.
            let end = json!({ "end": true, "count": count, "next": next });
            ("application/x-ndjson", rows::jsonl(records).map_err(failed)? + &format!("{end}\n"))
        }
        Form::Csv => ("text/csv; charset=utf-8", rows::csv(records)),
    };
    let link = next.unwrap_or_default();
    Ok((
        [(header::CONTENT_TYPE, kind), (header::HeaderName::from_static("pilotage-next"), link.as_str())],
        text,
    )
        .into_response())
}

fn failed(error: serde_json::Error) -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

async fn one(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    record(shared, peer, uri, id, false).await
}

async fn events(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    record(shared, peer, uri, id, true).await
}

async fn record(shared: Shared, peer: Peer, uri: Uri, id: String, events: bool) -> Result<Response, Refusal> {
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let filter = scope.narrow(Filter::default())?;
        let found = site.record(&id)?.filter(|(record, _)| filter.matches(record));
        let absent = || Refusal::new(StatusCode::NOT_FOUND, format!("no record {id:?} that you may see"));
        let (record, lines) = found.ok_or_else(absent)?;
        let view = View::new(&record);
        let view = if events { view.with_events(&lines) } else { view };
        Ok(Json(serde_json::to_value(&view).map_err(failed)?).into_response())
    });
    answer.await
}

async fn trees(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let asked: Sessions = question::parse(&pairs)?;
        let filter = scope.narrow(asked.filter())?;
        let page = site.page(&filter, asked.cursor, asked.limit)?;
        let trees = tree::trees(&page.records, Moment::now());
        let next = page.next.map(|cursor| cursor.to_string());
        let body = json!({ "query": filter, "count": trees.len(), "trees": trees, "next": next });
        Ok(Json(body).into_response())
    });
    answer.await
}

async fn summary(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    uri: Uri,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let form = form(&headers)?;
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let asked: Summary = question::parse(&pairs)?;
        let filter = scope.narrow_sums(asked.filter(), &asked.by)?;
        let sums = site.sums(&filter, &asked.by)?;
        let (kind, text) = match form {
            Form::Json => ("application/json", sum_view::json(&filter, &asked.by, &sums)),
            Form::Lines => ("application/x-ndjson", sum_view::jsonl(&asked.by, &sums)),
            Form::Csv => ("text/csv; charset=utf-8", sum_view::csv(&asked.by, &sums)),
        };
        Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
    });
    answer.await
}

async fn reconcile(
    State(shared): State<Shared>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    Query(pairs): Pairs,
) -> Result<Response, Refusal> {
    let answer = shared.work(move |site| {
        let scope = Shared::ask(site, &peer.identity.subject, &uri)?;
        let filter = question::parse::<Between>(&pairs)?.filter();
        if scope != Scope::All {
            let why = "holes in the site's accounting are for those of [readers] all";
            return Err(Refusal::new(StatusCode::FORBIDDEN, why));
        }
        let others = site.config().reconcile.clone();
        if others.is_empty() {
            let why = "nothing to compare with: name files in [reconcile] of accounting.toml";
            return Err(Refusal::new(StatusCode::NOT_FOUND, why));
        }
        let records = site.all(&filter)?;
        let unreadable = |why: crate::compare::BadFile| {
            tracing::error!(reason = %why, "reconcile: a file cannot be used");
            Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{why}; it is compared once it can be read"),
            )
        };
        let (findings, overhead) = others.compare(&records).map_err(unreadable)?;
        let body = json!({
            "query": filter, "records": records.len(), "overhead": overhead, "count": findings.len(),
            "findings": findings,
        });
        Ok(Json(body).into_response())
    });
    answer.await
}

async fn health(State(shared): State<Shared>) -> Result<&'static str, Refusal> {
    let told =
        shared.work(|site| site.health().map_err(|why| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why)));
    told.await.map(|()| "ok\n")
}

async fn metrics(State(shared): State<Shared>) -> Result<Response, Refusal> {
    let text = shared.work(|site| Ok(site.metrics()?)).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
