//! The HTTP side: one endpoint that answers queries of authenticated hosts.

use crate::config::{BadConfig, Config};
use crate::decide::{self, Verdict};
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Router};
use identity::Dn;
use mapping_client::xacml::answer::{Answer, Fault};
use mapping_client::xacml::query::Query;
use mapping_client::xacml::tree::MAX_MESSAGE;
use mapping_client::xacml::{issue_instant, random_id};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use transport::Peer;

/// Where clients of GUMS look for the service.
pub const GUMS_PATH: &str = "/gums/services/GUMSXACMLAuthorizationServicePort";

/// For the body of a query.
const PATIENCE: Duration = Duration::from_secs(10);

/// The configuration in force, and where it came from.
pub struct Rules {
    path: PathBuf,
    current: RwLock<Arc<Config>>,
}

impl Rules {
    /// Reads the file for the first time.
    pub fn load(path: PathBuf) -> Result<Self, BadConfig> {
        let config = Config::load(&path)?;
        log_loaded(&path, &config);
        Ok(Self { path, current: RwLock::new(Arc::new(config)) })
    }

    /// Reads the file again. A broken one changes nothing.
    pub fn reload(&self) {
        match Config::load(&self.path) {
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

/// The routes. `issuer` is the service's name for itself in its answers.
pub fn router(rules: Arc<Rules>, issuer: String) -> Router {
    let state = (rules, Arc::<str>::from(issuer));
    Router::new().route(GUMS_PATH, post(ask)).route("/", post(ask)).with_state(state)
}

async fn ask(
    State((rules, issuer)): State<(Arc<Rules>, Arc<str>)>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Response {
    // A query fits into a few packets: whoever needs longer only holds the connection.
    let Ok(Ok(body)) = tokio::time::timeout(PATIENCE, to_bytes(body, MAX_MESSAGE)).await else {
        return (StatusCode::BAD_REQUEST, "the query is too large or too slow").into_response();
    };
    let (status, xml) = match judge(&rules.now(), &peer.identity.subject, &body) {
        Ok(answer) => match random_id() {
            Ok(id) => (StatusCode::OK, answer.encode(&id, &issue_instant(), &issuer)),
            Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, decide::fault(e.to_string()).encode()),
        },
        Err(fault) => (StatusCode::INTERNAL_SERVER_ERROR, fault.encode()),
    };
    (status, [(header::CONTENT_TYPE, "text/xml; charset=utf-8")], xml).into_response()
}

/// One log line for each query, whatever becomes of it.
fn judge(config: &Config, caller: &Dn, body: &[u8]) -> Result<Answer, Fault> {
    let refused = |fault: Fault| {
        tracing::warn!(caller = ?caller.as_str(), reason = ?fault.reason, "query refused");
        fault
    };
    if !decide::may_ask(config, caller) {
        return Err(refused(decide::fault(format!("{caller} may not ask here; add it to [callers] allow"))));
    }
    let query = Query::parse(body).map_err(|e| refused(decide::fault(e.to_string())))?;
    let question = decide::question(&query).map_err(refused)?;
    let verdict = decide::verdict(config, &question);
    let answer = decide::answer(config, &query, &verdict);
    let (account, reason) = match &verdict {
        Verdict::Mapped(account) => (account.as_str(), answer.message.as_deref().unwrap_or_default()),
        Verdict::Denied(reason) => ("", reason.as_str()),
    };
    tracing::info!(
        caller = ?caller.as_str(),
        host = ?question.host,
        subject = ?question.subject.as_str(),
        fqan = ?question.fqans.first().map_or("", |(f, _)| f),
        decision = answer.decision.name(),
        account,
        reason = ?reason,
        id = ?query.id.as_deref().unwrap_or_default(),
        "query answered"
    );
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
