//! What a payload needs before it can start: its own proxy, its ports, its input files.

use super::launch::write_secret;
use super::opener::OpenLease;
use super::{Agent, PATIENCE};
use anyhow::{Context, Result, bail};
use backon::Retryable;
use openssl::sha::Sha256;
use pilot_api::{CertificateRequest, InputFile, Lease};
use pilot_client::Pauses;
use std::path::{Path, PathBuf};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

/// All that, in a directory that is removed with it.
#[derive(Debug)]
pub struct Staged {
    /// Private directory of the attempt.
    pub dir: tempfile::TempDir,
    /// The payload's ports.
    pub ports: Option<OpenLease>,
}

impl Staged {
    /// The payload's proxy.
    pub fn proxy(&self) -> PathBuf {
        self.dir.path().join("proxy.pem")
    }

    /// The content of the input file with this number.
    pub fn input(&self, number: usize) -> PathBuf {
        self.dir.path().join(format!("input-{number}"))
    }
}

/// Collects it, but for the ports: those are for payloads that begin. `proxy` is what came with the lease. The error is the
/// reason for giving the lease back.
pub async fn stage(agent: &Agent, lease: &Lease, proxy: Option<String>) -> Result<Staged> {
    let name = format!("{}-", lease.attempt);
    let dir = tempfile::Builder::new()
        .prefix(&name)
        .tempdir_in(agent.private.path()?)
        .context("cannot make a directory")?;
    let staged = Staged { dir, ports: None };
    let proxy = match proxy {
        Some(proxy) => proxy,
        None => delegate(agent, lease).await.context("cannot get a proxy for the payload")?,
    };
    write_secret(&staged.proxy(), proxy.as_bytes())?;
    for (number, input) in lease.spec.inputs.iter().enumerate() {
        let fetched = fetch(agent, input, &staged.input(number)).await;
        fetched.with_context(|| format!("cannot get input file {:?}", input.path))?;
    }
    Ok(staged)
}

/// The key is made here; only the request travels.
async fn delegate(agent: &Agent, lease: &Lease) -> Result<String> {
    let (key, csr) = agent.keys.take().await?;
    let request = CertificateRequest { lease: lease.lease, csr };
    let signed =
        agent.client.patiently(PATIENCE, || agent.client.attempt_delegation(lease.attempt, &request)).await?;
    Ok(delegation::join(&signed.chain, &key)?)
}

async fn fetch(agent: &Agent, input: &InputFile, to: &Path) -> Result<()> {
    let give_up = Instant::now() + PATIENCE;
    let transfer = || async {
        let body = agent.client.patiently(PATIENCE, || agent.client.blob(&input.sha256)).await?;
        keep(body, input, to).await
    };
    // A cut transfer is no reason to give the payload back: the queue may have been restarted.
    let retried =
        transfer.retry(Pauses::default().take_while(move |_| Instant::now() < give_up)).sleep(sleep);
    let retried = retried.when(|e| e.is::<reqwest::Error>());
    let told =
        retried.notify(|e, _| tracing::warn!(input = input.path, error = %e, "transfer cut, trying again"));
    told.await
}

async fn keep(mut body: reqwest::Response, input: &InputFile, to: &Path) -> Result<()> {
    let mut file = File::create(to).await?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    while let Some(chunk) = body.chunk().await? {
        hash.update(&chunk);
        size += chunk.len() as u64;
        file.write_all(&chunk).await?;
    }
    file.flush().await?;
    if size != input.size || hex::encode(hash.finish()) != input.sha256 {
        bail!("what came is not what was submitted");
    }
    Ok(())
}
