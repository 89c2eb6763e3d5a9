//! Keys for payloads' proxies, made before they are needed.

use anyhow::{Context, Result};
use delegation::{CsrPem, KeyKind, KeyPem};
use std::sync::{Mutex, PoisonError};
use tokio::task::{JoinHandle, spawn_blocking};

type Request = JoinHandle<Result<(KeyPem, CsrPem), delegation::Error>>;

/// A source of keys of one kind.
#[derive(Debug)]
pub struct Keys {
    kind: KeyKind,
    next: Mutex<Option<Request>>,
}

impl Keys {
    /// Makes nothing yet.
    #[must_use]
    pub fn new(kind: KeyKind) -> Self {
        Self { kind, next: Mutex::new(None) }
    }

    /// A key and the request for its certificate; the next one is begun at once.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub async fn take(&self) -> Result<(KeyPem, CsrPem)> {
        let ready = self.exchange(Some(self.begin()));
        let made = match ready {
            Some(ready) => ready.await,
            None => self.begin().await,
        };
        Ok(made.context("cannot make a key")??)
    }

    /// So many, to travel with a claim. None where making them would hold the claim up: then each payload takes its own.
    ///
    /// # Errors
    /// When OpenSSL fails.
    pub async fn some(&self, number: usize) -> Result<Vec<(KeyPem, CsrPem)>> {
        let kind = self.kind;
        if number == 0 || kind != KeyKind::EcdsaP256 {
            return Ok(Vec::new());
        }
        let make = move || (0..number).map(|_| delegation::new_request_for(kind)).collect::<Result<_, _>>();
        Ok(spawn_blocking(make).await.context("cannot make keys")??)
    }

    /// Begins the first one: RSA keys take their time.
    pub fn prepare(&self) {
        self.exchange(Some(self.begin()));
    }

    fn begin(&self) -> Request {
        let kind = self.kind;
        spawn_blocking(move || delegation::new_request_for(kind))
    }

    fn exchange(&self, next: Option<Request>) -> Option<Request> {
        std::mem::replace(&mut *self.next.lock().unwrap_or_else(PoisonError::into_inner), next)
    }
}

/// Parses `--proxy-key`.
///
/// # Errors
/// For another word.
pub fn kind(text: &str) -> Result<KeyKind, String> {
    match text {
        "ecdsa" => Ok(KeyKind::EcdsaP256),
        "rsa" => Ok(KeyKind::Rsa2048),
        _ => Err("write ecdsa or rsa".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_key_is_given_out_twice() {
        for kind in [KeyKind::EcdsaP256, KeyKind::Rsa2048] {
            let keys = Keys::new(kind);
            keys.prepare();
            let (one, two) = (keys.take().await.unwrap().0, keys.take().await.unwrap().0);
            assert!(one != two && one.contains("PRIVATE KEY"));
            let some = keys.some(3).await.unwrap();
            assert_eq!(some.len(), if kind == KeyKind::Rsa2048 { 0 } else { 3 });
            assert!(some.windows(2).all(|pair| pair[0].0 != pair[1].0));
        }
    }
}
