//! Refusals as [`Problem`] documents (RFC 9457): one function per kind, each with its stable code.

use crate::files::FileError;
use crate::proxies::Denied;
use crate::state::Failure;
use crate::validate::Invalid;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pilot_api::Problem;
use pilot_core::Refused;
use pilot_store::StoreError;
use std::io::ErrorKind;

/// What the queue answers when it refuses: the interface's [`Problem`], with the conversions that only a server needs.
#[derive(Debug)]
pub struct Refusal(pub Problem);

impl std::ops::Deref for Refusal {
    type Target = Problem;
    fn deref(&self) -> &Problem {
        &self.0
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Refusal {}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&self.0).unwrap_or_default();
        let mut response = (status, body).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if self.retryable {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn problem(status: StatusCode, code: &str, title: impl Into<String>) -> Refusal {
    Refusal(Problem {
        status: status.as_u16(),
        code: code.into(),
        title: title.into(),
        retryable: false,
        offset: None,
    })
}

/// 400: the request cannot be understood.
pub fn invalid(title: impl Into<String>) -> Refusal {
    problem(StatusCode::BAD_REQUEST, "invalid", title)
}

/// 403 with a code of its own.
pub fn forbidden(code: &str, title: impl Into<String>) -> Refusal {
    problem(StatusCode::FORBIDDEN, code, title)
}

/// 403: a pilot that does not switch, where the operator requires it.
pub fn must_switch(rule: &str, host: &str) -> Refusal {
    let host = identity::one_line(host);
    let title = format!(
        "the pilot on {host} does not switch to the users' accounts, and this queue requires it (require_switch {rule}): start pilot run with glexec and without --no-switch"
    );
    forbidden("must_switch", title)
}

/// 404: there is none, or none that the asker may know of.
pub fn unknown(what: &str) -> Refusal {
    let title = format!("there is no such {what}, or it is not yours; check the id");
    problem(StatusCode::NOT_FOUND, &format!("unknown_{}", what.replace(' ', "_")), title)
}

/// 426: the program speaks a version of the interface that this queue does not understand.
pub fn too_old() -> Refusal {
    let title = format!(
        "this queue speaks version {} of the interface, and understands {} and later: install the pilot program of the queue's release",
        pilot_api::VERSION,
        pilot_api::OLDEST
    );
    problem(StatusCode::UPGRADE_REQUIRED, "too_old", title)
}

/// 409 with a code of its own.
pub fn conflict(code: &str, title: impl Into<String>) -> Refusal {
    problem(StatusCode::CONFLICT, code, title)
}

/// 409 after a lease has been lost.
pub fn superseded() -> Refusal {
    let title =
        "this lease is over: end the payload and do not report; the attempt was given up or taken over";
    conflict("lease_superseded", title)
}

/// 409 with the offset at which the log goes on.
pub fn wrong_offset(right: u64) -> Refusal {
    let title = format!("the log goes on at offset {right}; send the bytes from there");
    Refusal(Problem { offset: Some(right), ..conflict("wrong_offset", title).0 })
}

/// 413: over a size limit, in bytes.
pub fn too_large(what: &str, limit: u64) -> Refusal {
    let title = format!("the {what} is larger than this queue's limit of {limit} bytes");
    problem(StatusCode::PAYLOAD_TOO_LARGE, "too_large", title)
}

/// 413: the user's inputs take all that one user may store, in bytes.
pub fn storage_share(stored: u64, most: u64) -> Refusal {
    let title = format!(
        "your inputs take {stored} of the {most} bytes that one user may store here; they are forgotten some time after the last payload that names them has ended"
    );
    problem(StatusCode::PAYLOAD_TOO_LARGE, "storage_share", title)
}

/// 429: one user may have so many streams.
pub fn too_many_streams() -> Refusal {
    let title = "you have as many streams of events as one user may have here; end one of them";
    Refusal(Problem {
        retryable: true,
        ..problem(StatusCode::TOO_MANY_REQUESTS, "too_many_streams", title).0
    })
}

/// 422: understood, but it cannot be done as asked.
pub fn unsatisfiable(code: &str, title: impl Into<String>) -> Refusal {
    problem(StatusCode::UNPROCESSABLE_ENTITY, code, title)
}

/// 503: another process or request keeps the store; nothing was changed.
pub fn busy() -> Refusal {
    let title = "the queue's store is busy; nothing was changed, try again";
    Refusal(Problem { retryable: true, ..problem(StatusCode::SERVICE_UNAVAILABLE, "store_busy", title).0 })
}

/// 500: logged in full here, without details for the client.
pub fn internal(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(what, error = %identity::one_line(&error.to_string()), "request failed");
    problem(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        format!("the queue failed at: {what}; see its log"),
    )
}

/// 503: the store or the disk cannot take it now; nothing was changed.
pub fn unavailable(what: &str, error: &dyn std::fmt::Display) -> Refusal {
    tracing::error!(what, error = %identity::one_line(&error.to_string()), "storage unavailable");
    let title =
        format!("the queue cannot write at the moment ({what}); nothing was changed, try again later");
    Refusal(Problem {
        retryable: true,
        ..problem(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", title).0
    })
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Busy(_) => {
                tracing::warn!(%error, "store busy");
                busy()
            }
            StoreError::Unavailable(_) => unavailable("the store", &error),
            StoreError::Damaged(_) => internal("the store", &error),
        }
    }
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refused) => refused.into(),
            Failure::Store(error) => error.into(),
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown(what) => unknown(what),
            Refused::Superseded => superseded(),
            Refused::Illegal(illegal) => {
                conflict("illegal_transition", format!("{illegal}; ask for its state"))
            }
            Refused::IdTaken(what) => {
                conflict("id_taken", format!("this id names another {what} already; make a new one"))
            }
            Refused::DelegationIncomplete => unsatisfiable(
                "delegation_incomplete",
                "the delegation has not been signed; PUT the signed chain first",
            ),
            Refused::DelegationExpired => {
                unsatisfiable("delegation_expired", "the delegated proxy has expired; delegate a new one")
            }
            Refused::AlreadySigned => {
                conflict("already_signed", "this delegation has been signed before; start a new one")
            }
            Refused::BlobMissing { path, sha256, size } => {
                let path = identity::one_line(&path);
                let title = format!("input {path:?}: upload {sha256} with {size} bytes first");
                unsatisfiable("blob_missing", title)
            }
            Refused::MustSwitch { rule, host } => must_switch(&rule, &host),
            Refused::NotThatPilot => forbidden(
                "not_that_pilot",
                "only the pilot that registered under this id may do this: show the secret that it registered with",
            ),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(found: Invalid) -> Self {
        match found.code {
            "invalid" => invalid(found.title),
            code => unsatisfiable(code, found.title),
        }
    }
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Because(code, title) => unsatisfiable(code, title),
            Denied::Internal(what, why) => internal(what, &why),
        }
    }
}

impl From<FileError> for Refusal {
    fn from(error: FileError) -> Self {
        match error {
            FileError::TooLarge(what, limit) => too_large(what, limit),
            FileError::BrokenOff(..) => invalid(error.to_string()),
            FileError::WrongOffset(right) => wrong_offset(right),
            FileError::Full(why) => unavailable("its disk is nearly full", &why),
            FileError::Failed(what, e) => match e.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::ReadOnlyFilesystem => {
                    unavailable(what, &e)
                }
                _ => internal(what, &e),
            },
        }
    }
}
