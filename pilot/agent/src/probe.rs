//! Before the first payload: can this node run one? A payload that does nothing goes the whole way that payloads go, and room on
//! disk and in memory is looked at. A node that fails says why and takes nothing, so it burns nobody's attempts.
//!
//! The probe is started with the pilot's own proxy. A site need not map the pilot's own name; its refusal of that name (203)
//! shows that the switch works up to the mapping, and that is as far as a pilot can see without a user's proxy.

use super::Agent;
use super::launch::{Launch, write_secret};
use super::lease::{ChildExit, GRACE};
use super::session::{Session, SessionNews};
use anyhow::{Context, Result, bail};
use pilot_api::RawSpec;
use pilot_wire::{EndCause, Start, ToAgent};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// How long the null payload may take: as long as a slow mapping service, and more.
const PATIENCE: Duration = Duration::from_secs(120);
/// A node with less than this is full: a small log alone takes as much.
const LEAST_DISK: u64 = 4 << 20;
/// With less than this free, the runner and a small payload are killed at once.
const LEAST_MEMORY: u64 = 64 << 20;
/// `glexec` refuses the credential's owner; everything before that has worked.
const NOT_MAPPED: i32 = 203;

/// Tries the node; the error says in one line what it lacks.
pub async fn probe(agent: &Agent) -> Result<()> {
    room("the scratch directory", super::scratch::free(&agent.scratch), LEAST_DISK)?;
    room("memory", available_memory(), LEAST_MEMORY)?;
    let run = null_payload(agent);
    timeout(PATIENCE, run).await.unwrap_or_else(|_| {
        bail!("a payload that does nothing did not end within {} s", PATIENCE.as_secs());
    })
}

fn room(what: &str, has: Option<u64>, least: u64) -> Result<()> {
    match has {
        Some(has) if has < least => {
            bail!("{what} has {} MiB free, and {} MiB are needed", has >> 20, least >> 20)
        }
        Some(_) | None => Ok(()),
    }
}

/// What the kernel would give now (`MemAvailable`, proc_meminfo(5)).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.saturating_mul(1024))
}

async fn null_payload(agent: &Agent) -> Result<()> {
    let attempt = Uuid::now_v7();
    let dir = tempfile::Builder::new().prefix("probe-").tempdir_in(agent.private.path()?);
    let dir = dir.context("cannot make a directory")?;
    let proxy = dir.path().join("proxy.pem");
    let own = std::fs::read(&agent.proxy)
        .with_context(|| format!("cannot read the pilot's proxy {}", agent.proxy.display()))?;
    write_secret(&proxy, &own)?;
    let spec = null_spec();
    let launch = Launch {
        switch: &agent.switch,
        runner: &agent.runner,
        attempt,
        spec: &spec,
        payload_proxy: proxy,
        pilot_proxy: &agent.proxy,
        account: &agent.node.account,
        batch_job: agent.node.batch_job.as_deref(),
        scratch: &agent.scratch,
        ports: None,
    };
    let start = Start {
        version: pilot_wire::VERSION,
        payload: attempt,
        attempt,
        spec: spec.clone(),
        site_env: BTreeMap::new(),
        scratch: Some(agent.scratch.display().to_string()),
        proxy_copy: launch.removable_proxy(),
        grace_ms: u64::try_from(GRACE.as_millis()).unwrap_or(u64::MAX),
        slot_end: agent.slot_end,
    };
    let outcome =
        async { follow(Session::begin(launch.start()?, start, Vec::new(), dir.path())?).await }.await;
    launch.clean_up();
    outcome
}

/// What a payload asks that asks for nothing.
fn null_spec() -> RawSpec {
    RawSpec::plain(vec!["/bin/true".to_owned()])
}

async fn follow(mut session: Session) -> Result<()> {
    let mut ended = None;
    loop {
        match session.next().await {
            SessionNews::Message(ToAgent::Ended(said)) => ended = Some(said),
            SessionNews::Message(_) => (),
            SessionNews::Failed(why) => bail!("{why}"),
            SessionNews::Over(exit) => return verdict(ended.map(|e| (e.cause, e.exit_code, e.reason)), exit),
        }
    }
}

/// What the end of the null payload says about the node.
fn verdict(ended: Option<(EndCause, Option<i32>, Option<String>)>, exit: ChildExit) -> Result<()> {
    match (ended, exit) {
        (Some((EndCause::Exited, Some(0), _)), _) => Ok(()),
        (Some((_, code, reason)), _) => {
            let code = code.map_or_else(|| "without a code".to_owned(), |code| format!("with code {code}"));
            bail!("a payload that does nothing ended {code}: {}", reason.unwrap_or_default())
        }
        (None, ChildExit::Code(NOT_MAPPED, line)) => {
            tracing::info!(
                reason = line,
                "this site does not map the pilot's own name: probed up to the mapping"
            );
            Ok(())
        }
        (None, ChildExit::Code(code, line)) => bail!("payloads cannot be started ({code}): {line}"),
        (None, ChildExit::Signal(signal)) => bail!("payloads cannot be started: died by signal {signal}"),
        (None, ChildExit::Unprepared(why)) => bail!("payloads cannot be started: {why}"),
        // Nobody recalls a probe: it is no lease.
        (None, ChildExit::Recalled) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_run_or_a_refusal_of_the_pilots_own_name_is_good() {
        let line = || "a reason".to_owned();
        assert!(verdict(Some((EndCause::Exited, Some(0), None)), ChildExit::Code(0, String::new())).is_ok());
        assert!(verdict(None, ChildExit::Code(203, line())).is_ok());
        for code in [1, 3, 126, 127, 201, 202, 204] {
            let told = verdict(None, ChildExit::Code(code, line())).unwrap_err().to_string();
            assert!(told.contains("a reason") && told.contains(&code.to_string()), "{told}");
        }
        assert!(verdict(None, ChildExit::Signal(9)).is_err());
        assert!(verdict(Some((EndCause::Setup, None, Some(line()))), ChildExit::Code(0, line())).is_err());
        assert!(
            verdict(Some((EndCause::Exited, Some(127), Some(line()))), ChildExit::Code(127, line())).is_err()
        );
    }

    #[test]
    fn a_full_node_says_what_it_has_and_what_is_needed() {
        let told = room("the scratch directory", Some(3 << 20), LEAST_DISK).unwrap_err().to_string();
        assert_eq!(told, "the scratch directory has 3 MiB free, and 4 MiB are needed");
        assert!(
            room("memory", None, LEAST_MEMORY).is_ok() && room("memory", Some(1 << 30), LEAST_MEMORY).is_ok()
        );
        assert!(available_memory().is_some_and(|free| free > 0));
    }
}
