//! Jobs of our own queue: its pilots, for hosts that no batch system gives out.

use crate::system::{Host, Jobs};
use crate::who::Now;
use batch::jobs::{self, SiteJob};
use std::path::PathBuf;
use std::time::Duration;

/// For the list; a queue under load takes its time.
const PATIENCE: Duration = Duration::from_secs(30);

/// A queue that is asked for its pilots.
#[derive(Debug)]
pub struct Pilots {
    /// `https://HOST:PORT`.
    pub url: String,
    /// The certificate that is shown, read for each call, so that a renewed one is taken.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who may have signed the queue's.
    pub ca_dir: PathBuf,
    /// Logins of the pilots' subjects.
    pub believed: Now,
    /// Where calls run.
    pub host: Host,
}

impl Jobs for Pilots {
    fn now(&self) -> Result<Vec<SiteJob>, String> {
        let client = transport::client(&self.cert, Some(&self.key), &self.ca_dir, PATIENCE)
            .map_err(|e| e.to_string())?;
        let text = self.host.wait(async {
            let answer = client
                .get(format!("{}/v1/pilots", self.url))
                .send()
                .await
                .map_err(|e| crate::agent::reason(&e))?;
            let status = answer.status();
            let text = answer.text().await.map_err(|e| crate::agent::reason(&e))?;
            match status.is_success() {
                true => Ok(text),
                false => Err(format!("{status}: {}", crate::openings::cut(&text))),
            }
        });
        let text =
            text.map_err(|reason: String| format!("the queue {} does not answer: {reason}", self.url))?;
        let mut jobs = jobs::pilots(&text).map_err(|e| e.to_string())?;
        let believed = self.believed.get();
        for job in &mut jobs {
            // A subject without a login stays as it is: nobody has such a login.
            if let Some(login) = believed.login(&job.owner) {
                job.owner = login.as_str().to_owned();
            }
        }
        Ok(jobs)
    }
}
