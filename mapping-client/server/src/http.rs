//! The HTTP side: queries of authenticated hosts, in the protocols of GUMS and SCAS, of Argus, and in JSON.

use crate::config::Config;
use crate::decide::{self, Question, Verdict};
use crate::metrics::{Interface, Metrics};
use crate::{argus, json};
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use credential::Trust;
use identity::Dn;
use mapping_client::xacml::answer::{Answer, Decision, Fault};
use mapping_client::xacml::query;
use mapping_client::xacml::tree::MAX_MESSAGE;
use mapping_client::xacml::{issue_instant, random_id};
use service::config::BadConfig;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};
use transport::Peer;

/// Where clients of GUMS look for the service.
pub const GUMS_PATH: &str = "/gums/services/GUMSXACMLAuthorizationServicePort";
/// Where clients of the PEP daemon of Argus look for it.
pub const ARGUS_PATH: &str = "/authz";
/// Where clients of the JSON interface of GUMS 1.5 look for it.
pub const JSON_PATH: &str = "/gums/json/mapGridIdentity";
/// Where Prometheus finds the figures.
pub const METRICS_PATH: &str = "/metrics";

/// For the body of a query.
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration in force, and where it came from.
pub struct Rules {
    path: PathBuf,
    current: RwLock<Arc<Config>>,
    /// What was asked, and how it was answered.
    pub metrics: Metrics,
}

impl Rules {
    /// Reads the file for the first time.
    pub fn load(path: PathBuf) -> Result<Self, BadConfig> {
        let config = Config::load(&path)?;
        log_loaded(&path, &config);
        Ok(Self { path, current: RwLock::new(Arc::new(config)), metrics: Metrics::default() })
    }

    /// Reads the file again. A broken one changes nothing.
    pub fn reload(&self) {
        let read = Config::load(&self.path);
        self.metrics.reloaded(read.is_ok());
        match read {
            Ok(config) => {
                log_loaded(&self.path, &config);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
            }
            Err(e) => tracing::error!(reason = %e, "configuration not reloaded, the old one stays in force"),
        }
    }

    fn now(&self) -> Arc<Config> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn log_loaded(path: &std::path::Path, config: &Config) {
    tracing::info!(file = ?path, users = config.users.len(), fqans = config.fqans.len(), "configuration loaded");
    if config.callers.allow.is_empty() {
        tracing::warn!(file = ?path, "nobody may ask: name the hosts in [callers] allow");
    }
}

/// What the routes share.
#[derive(Clone)]
pub struct Service {
    /// Who may ask, and who gets what.
    pub rules: Arc<Rules>,
    /// The service's name for itself in its answers.
    pub issuer: Arc<str>,
    /// What the chains of persons are judged by, where a protocol sends them.
    pub trust: Arc<Trust>,
}

/// The routes.
pub fn router(service: Service) -> Router {
    Router::new()
        .route(GUMS_PATH, post(xacml))
        .route("/", post(xacml))
        .route(ARGUS_PATH, post(argus))
        .route(JSON_PATH, get(json))
        .route(METRICS_PATH, get(metrics))
        .with_state(service)
}

/// Reads a body. A query fits into a few packets: whoever needs longer only holds the connection.
async fn read(body: Body) -> Result<Bytes, Response> {
    match tokio::time::timeout(PATIENCE, to_bytes(body, MAX_MESSAGE)).await {
        Ok(Ok(body)) => Ok(body),
        _ => Err((StatusCode::BAD_REQUEST, "the query is too large or too slow").into_response()),
    }
}

async fn xacml(State(service): State<Service>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    // A lease waits for others who take one: not on the thread that serves others.
    let (rules, begin) = (service.rules.now(), Instant::now());
    let judged = tokio::task::spawn_blocking(move || judge(&rules, &peer.identity.subject, &body));
    let judged = judged.await.unwrap_or_else(|e| Err(decide::fault(e.to_string())));
    let decision = judged.as_ref().ok().map(|answer| answer.decision);
    service.rules.metrics.answered(Interface::Xacml, decision, begin.elapsed());
    let (status, xml) = match judged {
        Ok(answer) => match random_id() {
            Ok(id) => (StatusCode::OK, answer.encode(&id, &issue_instant(), &service.issuer)),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, decide::fault(e.to_string()).encode()),
        },
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault.encode()),
    };
    (status, [(header::CONTENT_TYPE, "text/xml; charset=utf-8")], xml).into_response()
}

async fn argus(State(service): State<Service>, Extension(peer): Extension<Peer>, body: Body) -> Response {
    let body = match read(body).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    // Signatures are checked and files of the CA directory read: not on the thread that serves others.
    let (rules, begin) = (service.rules.clone(), Instant::now());
    let answer = tokio::task::spawn_blocking(move || {
        argus::answer(&service.rules.now(), &peer.identity.subject, &service.trust, &body)
    });
    let answer = answer.await;
    let decision =
        answer.as_ref().ok().and_then(|answer| answer.as_ref().ok()).map(|(decision, _)| *decision);
    rules.metrics.answered(Interface::Argus, decision, begin.elapsed());
    match answer {
        Ok(Ok((_, text))) => ([(header::CONTENT_TYPE, "application/octet-stream")], text).into_response(),
        Ok(Err(reason)) => (StatusCode::BAD_REQUEST, reason).into_response(),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()).into_response(),
    }
}

async fn json(
    State(service): State<Service>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Response {
    let pairs = query.map(|Query(pairs)| pairs).map_err(|e| e.to_string());
    let (rules, begin) = (service.rules.now(), Instant::now());
    let answer = tokio::task::spawn_blocking(move || {
        pairs.and_then(|pairs| json::answer(&rules, &peer.identity.subject, &pairs))
    });
    let answer = answer.await.unwrap_or_else(|e| Err(e.to_string()));
    let decision = answer.as_ref().ok().map(|(decision, _)| *decision);
    service.rules.metrics.answered(Interface::Json, decision, begin.elapsed());
    match answer {
        Ok((_, answer)) => Json(answer).into_response(),
        Err(message) => {
            let error = serde_json::json!({ "result": "ERROR", "message": message });
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

/// For those who may ask.
async fn metrics(State(service): State<Service>, Extension(peer): Extension<Peer>) -> Response {
    match admit(&service.rules.now(), &peer.identity.subject) {
        Ok(()) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], service.rules.metrics.text())
            .into_response(),
        Err(reason) => (StatusCode::FORBIDDEN, reason).into_response(),
    }
}

/// Whether the caller may ask; a refusal is logged.
pub fn admit(config: &Config, caller: &Dn) -> Result<(), String> {
    if decide::may_ask(config, caller) {
        return Ok(());
    }
    let reason = format!("{caller} may not ask here; add it to [callers] allow");
    log_refused(caller, &reason);
    Err(reason)
}

/// One log line for a query that gets no decision.
pub fn log_refused(caller: &Dn, reason: &str) {
    tracing::warn!(caller = ?caller.as_str(), ?reason, "query refused");
}

/// One log line for a query with its decision. `id` names the query where the protocol has a field for that.
pub fn log_answered(caller: &Dn, question: &Question<'_>, decision: Decision, verdict: &Verdict, id: &str) {
    let (account, reason) = match verdict {
        Verdict::Mapped(account) => (account.as_str(), ""),
        Verdict::Denied(reason) => ("", reason.as_str()),
    };
    tracing::info!(
        caller = ?caller.as_str(),
        host = ?question.host,
        subject = ?question.subject.as_str(),
        fqan = ?question.fqans.first().map_or("", |(f, _)| f),
        decision = decision.name(),
        account,
        ?reason,
        ?id,
        "query answered"
    );
}

fn judge(config: &Config, caller: &Dn, body: &[u8]) -> Result<Answer, Fault> {
    admit(config, caller).map_err(decide::fault)?;
    let refused = |fault: Fault| {
        log_refused(caller, &fault.reason);
        fault
    };
    let query = query::Query::parse(body).map_err(|e| refused(decide::fault(e.to_string())))?;
    let question = decide::question(&query).map_err(refused)?;
    let verdict = decide::verdict(config, &question);
    let answer = decide::answer(config, &query, &verdict);
    log_answered(caller, &question, answer.decision, &verdict, query.id.as_deref().unwrap_or_default());
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_malformed_queries_get_a_fault() {
        let config = Config::parse("[callers]\nallow = ['/CN=ce']\n").unwrap();
        let (ce, stranger) = (Dn::parse("/CN=ce").unwrap(), Dn::parse("/CN=x").unwrap());
        let good = include_bytes!("../../tests/data/request-careless.xml");
        assert!(judge(&config, &stranger, good).unwrap_err().reason.contains("may not ask"));
        assert!(judge(&config, &ce, good).is_ok());
        for bad in [&b""[..], b"<html/>", b"\xff", b"<!DOCTYPE x><x/>"] {
            assert!(judge(&config, &ce, bad).is_err());
        }
    }

    #[test]
    fn a_broken_file_leaves_the_old_rules_in_force() {
        let dir = std::env::temp_dir().join(format!("mapping-server-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let file = dir.join("config.toml");
        std::fs::write(&file, "[users]\n'/CN=Alice' = 'alice'\n").unwrap();
        let rules = Rules::load(file.clone()).unwrap();
        std::fs::write(&file, "[users\n").unwrap();
        rules.reload();
        let kept = rules.now().users.len();
        std::fs::write(&file, "[users]\n").unwrap();
        rules.reload();
        let emptied = rules.now().users.len();
        std::fs::remove_dir_all(&dir).unwrap();
        assert_eq!((kept, emptied), (1, 0));
    }
}
