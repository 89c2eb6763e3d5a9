//! `pilot jobs`, `show`, `pilots`, `status`: what the queue knows, for people and as JSON.

use super::say::{print, print_json};
use super::select::Selector;
use super::text::{age, clean, size, span, style_of, table, time, width, wrap};
use super::{Common, RETRY, Result, hints};
use pilot_api::{Attempt, Factor, HistoryEntry, Payload, PayloadState, Pilot, PilotState};
use pilot_client::{Client, Which};
use std::collections::BTreeMap;
use std::fmt::Write;
use uuid::Uuid;

/// Where the values of `pilot show` begin.
const MARGIN: usize = 10;

/// Options of `pilot jobs`.
#[derive(Debug, clap::Args)]
pub struct JobsArgs {
    #[command(flatten)]
    common: Common,
    /// Only payloads in this state; may be repeated
    #[arg(long, value_name = "STATE")]
    state: Vec<PayloadState>,
    /// The newest N
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: u32,
}

/// Options of `pilot show`.
#[derive(Debug, clap::Args)]
pub struct ShowArgs {
    #[command(flatten)]
    common: Common,
    /// Id of a payload or array, its beginning, or `last`
    id: Selector,
}

/// Options of `pilot drain`.
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    #[command(flatten)]
    common: Common,
    /// Pilot id
    id: Uuid,
}

/// `pilot jobs`.
pub async fn jobs(args: JobsArgs) -> Result<u8> {
    let client = args.common.client()?;
    let which = Which { states: args.state, limit: args.limit, ..Which::default() };
    let payloads = client.patiently(RETRY, || client.listed(&which)).await?;
    if args.common.json {
        return print_json(&payloads);
    }
    let rows: Vec<_> = payloads.iter().map(job_row).collect();
    print(&table(
        &["ID", "STATE", "CODE", "SWITCH", "AGE", "HOST", "COMMAND"],
        &rows,
        width(),
        &["HOST", "AGE"],
    ))
}

fn job_row(payload: &Payload) -> Vec<String> {
    let report = payload.attempts.last().and_then(|a| a.report.as_ref());
    let code = report.and_then(|r| r.exit_code).map_or_else(|| "-".to_owned(), |code| code.to_string());
    let host = report.map(|r| clean(&r.host)).filter(|h| !h.is_empty()).unwrap_or_else(|| "-".to_owned());
    let state = style_of(payload.state).apply_to(payload.state).to_string();
    let switch = switch(payload.switched).to_owned();
    vec![payload.id.to_string(), state, code, switch, age(payload.submitted), host, command(payload)]
}

/// Whether payloads run under their user's own account; `-` when that is not known.
fn switch(switched: Option<bool>) -> &'static str {
    match switched {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    }
}

fn command(payload: &Payload) -> String {
    let index = payload.array_index.map(|i| format!("[{i}] ")).unwrap_or_default();
    clean(&format!("{index}{}", payload.spec.command.join(" ")))
}

/// Why the payload is in its state: the queue's word, else the last report's.
pub fn reason(payload: &Payload) -> Option<String> {
    let reported = || payload.attempts.last()?.report.as_ref()?.reason.clone();
    payload.reason.clone().or_else(reported)
}

/// `pilot show`; of an array all elements, as JSON in a list.
pub async fn show(args: ShowArgs) -> Result<u8> {
    let client = args.common.client()?;
    let ids = args.id.ids(&client).await?;
    let (mut all, mut text) = (Vec::new(), String::new());
    for id in &ids {
        let payload = client.patiently(RETRY, || client.payload(*id, 0)).await?;
        let events = client.patiently(RETRY, || client.events(*id)).await?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&describe(&payload, &events, width()));
        if let Some(hint) = hint(&client, &payload).await? {
            writeln!(text, "{:<MARGIN$}{}", "hint", wrap(&clean(&hint), MARGIN, width())).ok();
        }
        all.push(serde_json::json!({ "payload": payload, "events": events }));
    }
    match all.as_slice() {
        _ if !args.common.json => print(&text),
        [one] => print_json(one),
        all => print_json(&all),
    }
}

/// What the payload's own facts do not say: why it waits, or what to do about its end.
async fn hint(client: &Client, payload: &Payload) -> Result<Option<String>> {
    if !hints::waits(payload) {
        return Ok(hints::about_end(payload));
    }
    let pilots = client.patiently(RETRY, || client.pilots()).await?;
    let Some(why) = hints::unsatisfied(&payload.spec, &pilots) else { return Ok(None) };
    let status = client.patiently(RETRY, || client.status()).await?;
    Ok(Some(hints::with_refused(why, &status.refused_pilots)))
}

/// `pilot explain`: one line on why the payload is where it is; of an array one for each element, as JSON a list.
pub async fn explain(args: ShowArgs) -> Result<u8> {
    let client = args.common.client()?;
    let (mut all, mut text) = (Vec::new(), String::new());
    for id in args.id.ids(&client).await? {
        let payload = client.patiently(RETRY, || client.payload(id, 0)).await?;
        let hint = hint(&client, &payload).await?;
        let usual =
            || hints::waits(&payload).then(|| "a pilot that fits takes it when it has room".to_owned());
        let reasons = reason(&payload).into_iter().chain(hint);
        let reason = reasons.reduce(|reason, hint| format!("{reason}; {hint}")).or_else(usual);
        let told = reason.as_ref().map(|r| format!(": {}", clean(r))).unwrap_or_default();
        text.push_str(&format!("{} {}{told}\n", payload.id, payload.state));
        all.push(serde_json::json!({ "id": payload.id, "state": payload.state, "reason": reason }));
    }
    match all.as_slice() {
        _ if !args.common.json => print(&text),
        [one] => print_json(one),
        all => print_json(&all),
    }
}

fn describe(payload: &Payload, events: &[HistoryEntry], width: usize) -> String {
    let spec = &payload.spec;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        writeln!(text, "{name:<MARGIN$}{}", wrap(&clean(&value), MARGIN, width)).ok();
    };
    line("id", payload.id.to_string());
    payload.array.iter().for_each(|array| line("array", array.to_string()));
    line(
        "state",
        format!("{}{}", payload.state, reason(payload).map(|r| format!(": {r}")).unwrap_or_default()),
    );
    line("owner", payload.owner.clone());
    line("submitted", time(payload.submitted));
    line("command", command(payload));
    line("wants", wants(payload));
    if payload.switched == Some(false) {
        line("switch", "no: a pilot ran it as its own account, without glexec".to_owned());
    }
    for input in &spec.inputs {
        line("input", format!("{} ({})", input.path, size(input.size)));
    }
    spec.outputs.iter().for_each(|pattern| line("output", pattern.clone()));
    payload.attempts.iter().for_each(|attempt| attempt_lines(attempt, &mut line));
    for event in events {
        let actor = if event.actor == payload.owner { "the owner" } else { &event.actor };
        line("event", format!("{} {}: {}, by {actor}", time(event.at), event.state, event.cause));
    }
    text
}

fn wants(payload: &Payload) -> String {
    let spec = &payload.spec;
    let mut wants = vec![format!("{} core{}", spec.cores, if spec.cores == 1 { "" } else { "s" })];
    let again = |factor: Option<Factor>| factor.map(|f| format!(" (then {f})")).unwrap_or_default();
    wants.extend(spec.memory.map(|m| format!("{} memory{}", size(m), again(spec.retry_memory))));
    wants.extend(spec.disk.map(|d| format!("{} disk{}", size(d), again(spec.retry_disk))));
    wants.extend(spec.walltime.map(|w| format!("{} walltime", span(w))));
    wants.extend(spec.warn.map(|w| format!("{} {} before", spec.warn_signal, span(w))));
    wants.extend((spec.ports > 0).then(|| format!("{} ports", spec.ports)));
    wants.join(", ")
}

fn attempt_lines(attempt: &Attempt, line: &mut impl FnMut(&str, String)) {
    let outcome = attempt.outcome.map_or("running", |o| o.as_str());
    line("attempt", format!("{} {outcome}, leased {}", attempt.number, time(attempt.leased)));
    let unswitched = if attempt.switched == Some(false) { ", which did not switch the identity" } else { "" };
    line("", format!("pilot {}{unswitched}", attempt.pilot));
    let Some(report) = &attempt.report else { return };
    let mut facts = vec![format!("host {}", report.host)];
    facts.extend(report.exit_code.map(|c| format!("exit code {c}")));
    facts.extend(report.account.as_ref().map(|a| format!("account {a}")));
    facts.extend(report.ports.as_ref().map(|p| format!("ports {p}")));
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1000, ms % 1000);
    facts.extend(report.wall_ms.map(|ms| format!("wall {}", seconds(ms))));
    facts.extend(report.cpu_ms.map(|ms| format!("cpu {}", seconds(ms))));
    line("", facts.join(", "));
    report.session.iter().for_each(|session| line("", format!("session {session}")));
    report.reason.iter().for_each(|reason| line("", reason.clone()));
    if let Some(output) = &report.output {
        line("", format!("output {} files, {}", output.files, size(output.bytes)));
        output.missing().into_iter().for_each(|missing| line("missing", missing));
    }
}

/// `pilot pilots`.
pub async fn pilots(common: Common) -> Result<u8> {
    let client = common.client()?;
    let pilots = client.patiently(RETRY, || client.pilots()).await?;
    if common.json {
        return print_json(&pilots);
    }
    let rows: Vec<_> = pilots.iter().map(pilot_row).collect();
    let head = ["ID", "STATE", "RUNNING", "CORES", "SWITCH", "SEEN", "HOST", "DN", "WHY"];
    print(&table(&head, &rows, width(), &["DN", "SWITCH", "CORES", "SEEN"]))
}

fn pilot_row(pilot: &Pilot) -> Vec<String> {
    let node = &pilot.registration;
    vec![
        pilot.id.to_string(),
        pilot.state.to_string(),
        format!("{}/{}", pilot.running, node.slots),
        node.cores.to_string(),
        switch(Some(node.switches_identity)).to_owned(),
        format!("{} ago", age(pilot.seen)),
        clean(&node.host),
        clean(&pilot.dn),
        pilot.reason.as_deref().map_or_else(|| "-".to_owned(), clean),
    ]
}

/// `pilot drain`: that pilot takes no more work and ends when idle.
pub async fn drain(args: DrainArgs) -> Result<u8> {
    let client = args.common.client()?;
    client.patiently(RETRY, || client.drain(args.id)).await?;
    Ok(0)
}

/// `pilot status`.
pub async fn status(common: Common) -> Result<u8> {
    let client = common.client()?;
    let status = client.patiently(RETRY, || client.status()).await?;
    let pilots = client.patiently(RETRY, || client.pilots()).await?;
    let by_state = count_of(&status.payloads);
    let pilot_states = count(pilots.iter().map(|p| p.state.as_str()));
    let alive = |p: &&Pilot| !matches!(p.state, PilotState::Done | PilotState::Failed | PilotState::Lost);
    let slots: u32 = pilots.iter().filter(alive).map(|p| p.registration.slots).sum();
    let running: u32 = pilots.iter().filter(alive).map(|p| p.running).sum();
    if common.json {
        let queue = common.connection.queue;
        return print_json(&serde_json::json!({
            "queue": queue, "payloads": by_state, "pilots": pilot_states, "slots": slots, "slots_used": running,
            "storage": status.storage,
        }));
    }
    let list = |counts: &BTreeMap<&str, u64>| {
        let words: Vec<_> = counts.iter().map(|(state, n)| format!("{n} {state}")).collect();
        if words.is_empty() { "none".to_owned() } else { words.join(", ") }
    };
    let queue = common.connection.queue.unwrap_or_default();
    print(&format!(
        "queue     {queue}\npayloads  {}\npilots    {}\nslots     {running} of {slots} in use\nstorage   {}\n",
        list(&by_state),
        list(&pilot_states),
        storage(&status.storage)
    ))
}

fn storage(storage: &pilot_api::Storage) -> String {
    let full = if storage.full { "; nearly full, no new inputs are taken" } else { "" };
    format!(
        "{} of {} free, kept for {}{full}",
        size(storage.free),
        size(storage.total),
        span(storage.retention)
    )
}

fn count_of(counts: &BTreeMap<String, u64>) -> BTreeMap<&str, u64> {
    counts.iter().map(|(state, n)| (state.as_str(), *n)).collect()
}

fn count<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    words.fold(BTreeMap::new(), |mut counts, word| {
        *counts.entry(word).or_default() += 1;
        counts
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use pilot_api::{Outcome, Report};

    /// A payload with one attempt.
    pub fn payload(state: PayloadState, exit_code: Option<i32>) -> Payload {
        let report = Report { exit_code, host: "wn1".into(), wall_ms: Some(1500), ..Report::default() };
        let outcome = Some(Outcome::User);
        let attempt = Attempt {
            id: Uuid::nil(),
            number: 1,
            pilot: Uuid::nil(),
            switched: Some(false),
            leased: 5,
            outcome,
            ended: Some(6),
            report: Some(report),
        };
        Payload {
            id: Uuid::nil(),
            owner: "/CN=u".into(),
            state,
            reason: None,
            spec: serde_json::from_str(r#"{"command":["/bin/sh","-c","echo \u001b[31m"],"walltime":90}"#)
                .unwrap(),
            array_index: Some(3),
            array: None,
            submitted: 4,
            switched: Some(false),
            attempts: vec![attempt],
        }
    }

    #[test]
    fn a_description_has_the_facts_and_no_escapes() {
        let event = HistoryEntry {
            seq: 1,
            at: 4,
            actor: "/CN=u".into(),
            state: PayloadState::Received,
            cause: "submitted".into(),
        };
        let by_queue = HistoryEntry { actor: "queue".into(), ..event.clone() };
        let text = describe(&payload(PayloadState::Failed, Some(7)), &[event, by_queue], usize::MAX);
        for fact in [
            "exit code 7",
            "host wn1",
            "wall 1.500 s",
            "1m30s walltime",
            "[3] /bin/sh",
            "received: submitted, by the owner\n",
            "received: submitted, by queue\n",
            "no: a pilot ran it as its own account",
            "which did not switch the identity",
        ] {
            assert!(text.contains(fact), "{fact} is missing in {text}");
        }
        assert!(!text.contains('\x1b'));
        let narrow = describe(&payload(PayloadState::Failed, Some(7)), &[], 40);
        assert!(narrow.lines().all(|l| l.len() <= 40 || !l[MARGIN..].contains(' ')), "{narrow}");
        assert!(narrow.lines().all(|l| l.as_bytes()[MARGIN] != b' '), "{narrow}");
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let row = job_row(&payload(PayloadState::Done, None));
        assert_eq!((row.len(), row[3].as_str()), (7, "no"));
        assert_eq!(count(["a", "b", "a"].into_iter()), BTreeMap::from([("a", 2), ("b", 1)]));
    }
}
