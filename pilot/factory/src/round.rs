//! One round: look at batch systems and queue, settle the ledger, decide, and submit.

use crate::command;
use crate::config::{Config, Place};
use crate::decide::{self, Demand, Plan, Site, View, World};
use crate::entry::{self, Entry, Seen, State, Terms};
use crate::ledger::{Ledger, LedgerError};
use batch::{BatchError, Job, JobName, JobStatus, Line};
use futures_util::future::join_all;
use identity::shown::log_value;
use pilot_client::{Client, ClientError};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// How long a batch system's word that it would never run a pilot is believed. It may only have just started.
const BELIEVED: Duration = Duration::from_secs(30);
/// How names of pilots' jobs begin.
const PREFIX: &str = "pp-";

/// What batch systems answered about whether they could run a pilot at all; forgotten at a reload.
pub type Checked = BTreeMap<String, (Result<(), String>, Instant)>;

/// What a look has found.
#[derive(Debug)]
pub struct Sight {
    /// All pilots, settled.
    pub entries: Vec<Entry>,
    /// Those that differ from the ledger.
    pub changed: Vec<Entry>,
    /// What waits.
    pub demand: Vec<Demand>,
    /// By site.
    pub views: BTreeMap<String, View>,
}

/// Seconds since the epoch.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Asks every batch system and the queue, and settles what the ledger knows.
///
/// # Errors
/// When the queue cannot be asked: then nobody knows what is wanted or how pilots fare.
pub async fn look(config: &Config, client: &Client, ledger: &[Entry]) -> Result<Sight, ClientError> {
    // The batch systems first: a pilot that has left one has told the queue before.
    let names = config.places.iter();
    let listings = join_all(names.map(|(name, place)| async { (name.clone(), listing(place).await) })).await;
    let listings: BTreeMap<String, Result<Vec<JobStatus>, String>> = listings.into_iter().collect();
    // Pilots before demand: one that takes a payload in between must not look busy while the payload still seems to wait.
    let seen: BTreeMap<Uuid, Seen> = client.pilots().await?.into_iter().map(|p| (p.id, seen_of(p))).collect();
    let demand: Vec<Demand> = client.demand().await?.into_iter().map(demand).collect();
    let now = now();
    let settle = |e: &Entry| {
        let site = config.sites.iter().find(|s| s.name == e.site);
        let Some(Ok(jobs)) = listings.get(&e.site).filter(|_| e.is_live()) else { return e.clone() };
        let wanted = site.is_some_and(|s| demand.iter().any(|d| d.waiting > 0 && decide::fits(s, d).is_ok()));
        entry::settle(e, jobs, seen.get(&e.pilot), Terms { unknown_after: config.unknown_after, wanted, now })
    };
    let entries: Vec<Entry> = ledger.iter().map(settle).collect();
    let changed = entries.iter().filter(|e| !ledger.contains(e)).cloned().collect();
    let views = listings.into_iter().map(|(name, jobs)| {
        let strangers = jobs.map(|jobs| strangers(&jobs, &entries, &name));
        (name, View { strangers, satisfiable: None })
    });
    Ok(Sight { changed, demand, views: views.collect(), entries })
}

fn seen_of(pilot: pilot_api::Pilot) -> Seen {
    let failed = pilot.reason.filter(|_| pilot.state == pilot_api::PilotState::Failed);
    Seen { host: pilot.registration.host, worked: pilot.attempts > 0, failed }
}

async fn listing(place: &Place) -> Result<Vec<JobStatus>, String> {
    let text = command::run(&place.batch.status_command()).await?;
    place.batch.parse_status(&text).map_err(|e| e.to_string())
}

fn demand(d: pilot_api::Demand) -> Demand {
    Demand { owner: d.owner, cores: d.cores, memory: d.memory, walltime: d.walltime, waiting: d.waiting }
}

/// Jobs that a factory has named and this ledger does not know: one that was lost, or another factory's.
fn strangers(jobs: &[JobStatus], entries: &[Entry], site: &str) -> u32 {
    let known = |job: &JobStatus| entries.iter().any(|e| e.site == site && e.name == job.name);
    let alive = jobs.iter().filter(|job| job.state != batch::State::Ended && job.name.starts_with(PREFIX));
    u32::try_from(alive.filter(|job| !known(job)).count()).unwrap_or(u32::MAX)
}

/// Decides; batch systems that have to be asked first whether they could run a pilot are asked.
pub async fn decide(config: &Config, sight: &mut Sight, checked: &mut Checked) -> Plan {
    checked.retain(|_, (answer, at)| answer.is_ok() || at.elapsed() < BELIEVED);
    loop {
        for (name, view) in &mut sight.views {
            view.satisfiable = checked.get(name).map(|(answer, _)| answer.clone());
        }
        let world = World {
            sites: &config.sites,
            limits: &config.limits,
            demand: &sight.demand,
            ledger: &sight.entries,
            views: &sight.views,
            now: now(),
        };
        let plan = decide::decide(&world);
        if plan.check.is_empty() {
            return plan;
        }
        for name in &plan.check {
            let answer = match config.sites.iter().find(|s| s.name == *name).zip(config.places.get(name)) {
                Some((site, place)) => check(config, site, place).await,
                None => Err("it is not configured".into()),
            };
            checked.insert(name.clone(), (answer, Instant::now()));
        }
    }
}

async fn check(config: &Config, site: &Site, place: &Place) -> Result<(), String> {
    let job = job(config, site, place, "pp-check", Uuid::nil(), &[]).map_err(|e| e.to_string())?;
    match place.batch.check_command(&job).map_err(|e| e.to_string())? {
        Some(command) => command::run(&command).await.map(|_| ()),
        None => Ok(()),
    }
}

/// Submits what was planned. Each pilot is in the ledger before its batch system hears of it.
///
/// # Errors
/// When the ledger cannot be written: then nothing more is submitted.
pub async fn act(config: &Config, ledger: &mut Ledger, plan: &mut Plan) -> Result<(), LedgerError> {
    let mut failed: Vec<String> = Vec::new();
    for submit in std::mem::take(&mut plan.submit) {
        let site = config.sites.iter().find(|s| s.name == submit.site);
        let Some((site, place)) = site.zip(config.places.get(&submit.site)) else { continue };
        // What went wrong once will go wrong again; the next round tries again.
        if failed.contains(&submit.site) {
            continue;
        }
        let pilot = Uuid::now_v7();
        let name = format!("{PREFIX}{}", &pilot.simple().to_string()[20..]);
        let at = now();
        let mut entry = Entry {
            name,
            pilot,
            site: submit.site.clone(),
            owner: submit.owner,
            state: State::Intended,
            job: None,
            host: None,
            worked: false,
            created: at,
            changed: at,
            why: "intended".into(),
        };
        ledger.write(std::slice::from_ref(&entry))?;
        match send(config, site, place, &entry, &submit.avoid).await {
            Ok(id) => {
                tracing::info!(site = entry.site, name = entry.name, job = %id, pilot = %pilot, owner = %log_value(&entry.owner), "pilot submitted");
                (entry.job, entry.state, entry.changed, entry.why) =
                    (Some(id), State::Pending, now(), "submitted".into());
            }
            // It may have been accepted all the same: the listing will tell, and until then it counts.
            Err(reason) => {
                tracing::warn!(site = entry.site, name = entry.name, reason = %log_value(&reason), "submission failed");
                plan.reasons.push((entry.site.clone(), format!("a submission failed: {reason}")));
                failed.push(entry.site.clone());
                entry.why = format!("submission failed: {reason}");
            }
        }
        ledger.write(std::slice::from_ref(&entry))?;
    }
    Ok(())
}

async fn send(
    config: &Config,
    site: &Site,
    place: &Place,
    entry: &Entry,
    avoid: &[String],
) -> Result<batch::JobId, String> {
    let job = job(config, site, place, &entry.name, entry.pilot, avoid).map_err(|e| e.to_string())?;
    let command = place.batch.submit_command(&job).map_err(|e| e.to_string())?;
    let text = command::run(&command).await?;
    place.batch.parse_submitted(&text).map_err(|e| e.to_string())
}

/// The batch job of a pilot.
fn job(
    config: &Config,
    site: &Site,
    place: &Place,
    name: &str,
    pilot: Uuid,
    avoid: &[String],
) -> Result<Job, BatchError> {
    let output = match &place.logs {
        Some(dir) => Line::parse(&format!("{}/{name}.log", dir.as_str().trim_end_matches('/')))?,
        None => Line::parse("/dev/null")?,
    };
    Ok(Job {
        name: JobName::parse(name)?,
        command: start(config, site, place, pilot)?,
        cores: site.cores,
        memory_mib: place.memory_mib,
        walltime: site.walltime,
        queue: place.queue.clone(),
        project: place.project.clone(),
        environment: place.environment.clone(),
        output,
        // A name that is no line is no node.
        avoid: avoid.iter().filter_map(|host| Line::parse(host).ok()).collect(),
        options: place.options.clone(),
    })
}

/// What the job runs.
fn start(config: &Config, site: &Site, place: &Place, pilot: Uuid) -> Result<Line, BatchError> {
    let mut words = vec![
        "exec".to_owned(),
        "env".to_owned(),
        batch::quote(&format!("PILOT_QUEUE={}", config.queue.as_str())),
        batch::quote(&format!("X509_CERT_DIR={}", config.ca_dir.display())),
    ];
    words.extend(place.pilot_proxy.iter().map(|p| batch::quote(&format!("X509_USER_PROXY={}", p.as_str()))));
    let run = ["run".to_owned(), "--pilot-id".to_owned(), pilot.to_string()];
    let numbers =
        [("--slots", u64::from(site.slots).to_string()), ("--max-idle", format!("{}s", place.max_idle))];
    words.push(batch::quote(place.pilot.as_str()));
    words.extend(run);
    words.extend(numbers.into_iter().flat_map(|(option, value)| [option.to_owned(), value]));
    words.extend(place.pilot_options.iter().map(|word| batch::quote(word.as_str())));
    Line::parse(&words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pilot_s_command_names_queue_id_and_options() {
        let text = "queue = \"https://q:8443\"\n[site.a]\nsystem = \"local\"\naccount = \"pilot\"\nwalltime = \"1h\"\n\
                    max_pilots = 4\ncores = 2\nslots = 2\npilot_proxy = \"/p x\"\npilot_options = [\"--no-switch\"]\n\
                    logs = \"/logs/\"\n";
        let config = Config::parse(text).unwrap();
        let (site, place) = (&config.sites[0], &config.places["a"]);
        let job = job(&config, site, place, "pp-1", Uuid::nil(), &["wn1".into(), "a\nb".into()]).unwrap();
        assert_eq!(
            job.command.as_str(),
            "exec env PILOT_QUEUE=https://q:8443 X509_CERT_DIR=/etc/grid-security/certificates \
             'X509_USER_PROXY=/p x' /usr/bin/pilot run --pilot-id 00000000-0000-0000-0000-000000000000 --slots 2 \
             --max-idle 300s --no-switch"
        );
        assert_eq!((job.output.as_str(), job.avoid.len()), ("/logs/pp-1.log", 1));
    }

    #[test]
    fn only_live_jobs_with_a_factory_s_name_are_strangers() {
        let job = |name: &str, state| JobStatus {
            id: batch::JobId::parse("7").unwrap(),
            name: name.into(),
            state,
            host: None,
            why: String::new(),
        };
        let (running, ended) = (batch::State::Running, batch::State::Ended);
        let jobs = [job("pp-1", running), job("pp-2", ended), job("backup", running)];
        assert_eq!(strangers(&jobs, &[], "a"), 1);
    }
}
