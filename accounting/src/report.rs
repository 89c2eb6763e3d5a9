//! One record in full, and the answer to "who was that": text for people.

use crate::table::{exit, state_name};
use crate::when::{Moment, short_duration};
use identity::shown::{self, log_line};
use record::line::Line;
use record::time::rfc3339;
use record::{Batch, Denied, Opened, Record, State, Subject, Usage};

/// Lines of a name and a text; what would act on the terminal is escaped, empty texts are left out.
#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, text: impl AsRef<str>) {
        let text = log_line(text.as_ref());
        if text.is_empty() {
            return;
        }
        self.0.push_str(&format!("{name:<12}{text}\n"));
    }

    fn some(&mut self, name: &str, text: Option<impl AsRef<str>>) {
        if let Some(text) = text {
            self.add(name, text);
        }
    }
}

/// Everything a record says, one name and text a line.
pub fn full(record: &Record, now: Moment) -> String {
    let mut lines = Lines::default();
    lines.add("record", &record.id);
    lines.add("state", state_line(record));
    if let Some(opened) = &record.opened {
        session(&mut lines, record, opened, now);
    }
    if let Some(denied) = &record.denied {
        refusal(&mut lines, denied);
    }
    if let Some(used) = &record.usage {
        usage(&mut lines, used);
    }
    lines.add("file", record.path.to_string_lossy());
    lines.0
}

/// The events of a record, one a line.
pub fn events(lines: &[Line]) -> String {
    let text = |line: &Line| {
        let event = match line.event.as_ref().map(serde_json::to_string) {
            Some(Ok(json)) => json,
            Some(Err(error)) => error.to_string(),
            None => "an event of a later version".to_owned(),
        };
        format!("{:>4}  {}  {}\n", line.seq, rfc3339(line.written_unix_ns), shown::json(&event))
    };
    lines.iter().map(text).collect()
}

/// Who ran on an account: the few lines that an incident needs.
pub fn who(record: &Record) -> String {
    let Some(opened) = &record.opened else {
        return String::new();
    };
    let mut lines = Lines::default();
    let end = record.end_unix_ns.map_or_else(|| "now".to_owned(), rfc3339);
    let (start, account) = (rfc3339(opened.start_unix_ns), account(opened));
    lines.add("who", &opened.payload.dn);
    lines.some("fqan", opened.payload.fqans.first());
    lines.add("account", format!("{account} on {}", opened.host));
    lines.add("time", format!("{start} to {end}, {}", state_line(record)));
    lines.add("caller", caller(opened.caller_uid, opened.caller_name.as_deref()));
    lines.some("batch job", opened.batch.as_ref().map(batch));
    lines.some("program", claimed(opened));
    lines.add("command", command(opened));
    lines.add("record", &record.id);
    lines.0
}

fn session(lines: &mut Lines, record: &Record, opened: &Opened, now: Moment) {
    lines.add("start", rfc3339(opened.start_unix_ns));
    match record.end_unix_ns {
        Some(end) => lines.add("end", rfc3339(end) + if record.estimated { " (estimated)" } else { "" }),
        None => lines.add("age", short_duration(now.0.saturating_sub(opened.start_unix_ns))),
    }
    subject(lines, &opened.payload);
    lines.add("account", format!("{}, gid {}{}", account(opened), opened.gid, groups(opened)));
    lines.add("mapped by", &opened.policy_source);
    lines.add("host", &opened.host);
    lines.some("batch job", opened.batch.as_ref().map(batch));
    lines.some("ce", opened.ce.as_deref());
    lines.some("parent", opened.parent_id.as_deref());
    lines.add("caller", caller(opened.caller_uid, opened.caller_name.as_deref()));
    lines.some("pilot", opened.pilot_dn.as_deref());
    lines.add("credential", format!("sha256 {}, serial {}", opened.cred_sha256, opened.cred_serial));
    lines.add("", format!("ends {}", rfc3339(opened.cred_not_after.saturating_mul(1_000_000_000))));
    lines.some("program", claimed(opened));
    lines.add("command", command(opened));
    lines.add("directory", &opened.cwd);
    lines.some("proxy", opened.target_proxy.as_deref());
    let pid = record.pid.map(|pid| format!(", payload {pid}")).unwrap_or_default();
    lines.add("pid", format!("supervisor {}{pid}", opened.supervisor_pid));
    lines.some("cgroup", opened.cgroup.as_deref());
    lines.some("ports", opened.ports.as_ref().map(|p| format!("{} {}", p.range, p.enforced_by)));
    lines.some("isolation", (!opened.isolation.is_empty()).then(|| opened.isolation.join(", ")));
    lines.some("benchmark", opened.benchmark.as_deref());
    lines.some("ended by", (!opened.ladder.is_empty()).then(|| opened.ladder.join(", ")));
    lines.some("glexec id", opened.glexec_id.as_deref());
}

fn refusal(lines: &mut Lines, denied: &Denied) {
    lines.add("time", rfc3339(denied.at_unix_ns));
    lines.add("reason", &denied.reason);
    if !denied.nested_signs.is_empty() {
        lines.add("nested", denied.nested_signs.join(", "));
    }
    if let Some(payload) = &denied.payload {
        subject(lines, payload);
    }
    lines.some("account", denied.account.as_deref());
    lines.some("mapped by", denied.policy_source.as_deref());
    lines.add("host", &denied.host);
    lines.some("batch job", denied.batch.as_ref().map(batch));
    lines.add("caller", caller(denied.caller_uid, denied.caller_name.as_deref()));
    lines.some("credential", denied.cred_sha256.as_ref().map(|sum| format!("sha256 {sum}")));
    lines.add("command", &denied.argv0);
    lines.some("glexec id", denied.glexec_id.as_deref());
}

fn subject(lines: &mut Lines, subject: &Subject) {
    lines.add("payload", &subject.dn);
    lines.add("issuer", &subject.issuer);
    lines.some("vo", subject.vo.as_deref());
    subject.fqans.iter().for_each(|fqan| lines.add("fqan", fqan));
}

fn usage(lines: &mut Lines, usage: &Usage) {
    lines.add("wall time", short_duration(usage.wall_ns));
    let seconds = |us: u64| format!("{}.{:02} s", us / 1_000_000, us / 10_000 % 100);
    let (user, system) = (seconds(usage.cpu_user_us), seconds(usage.cpu_sys_us));
    lines.add("cpu time", format!("user {user}, system {system} ({})", usage.cpu_source));
    let kind = usage.mem_kind.as_deref().unwrap_or("unknown kind");
    let mib = |n: u64| n / (1024 * 1024);
    lines.some("memory", usage.mem_peak_bytes.map(|n| format!("{} MiB at most ({kind})", mib(n))));
    for (other, bytes) in usage.mem_peaks_bytes.iter().filter(|(name, _)| *name != kind) {
        lines.add("", format!("{} MiB at most ({other})", mib(*bytes)));
    }
    let killed = usage.oom_kills.filter(|n| *n > 0);
    lines.some("", killed.map(|n| format!("{n} processes killed because memory ran out")));
    let io = usage.io_read_bytes.zip(usage.io_write_bytes);
    let source = usage.io_source.as_deref().unwrap_or("unknown source");
    lines.some(
        "disk",
        io.map(|(read, written)| format!("{read} bytes read, {written} bytes written ({source})")),
    );
}

fn state_line(record: &Record) -> String {
    let mut text = state_name(record.state).to_owned();
    match &record.exit {
        _ if record.state == State::Denied => text.push_str(&format!(" with exit code {}", exit(record))),
        Some(end) => {
            end.code.iter().for_each(|code| text.push_str(&format!(", exit code {code}")));
            end.signal.iter().for_each(|signal| text.push_str(&format!(", signal {signal}")));
            end.oom.then(|| text.push_str(", out of memory"));
            end.killed_by.iter().for_each(|by| text.push_str(&format!(", killed by {by}")));
            end.lost.iter().for_each(|cause| text.push_str(&format!(", {cause}")));
            if end.leftovers > 0 {
                text.push_str(&format!(", {} processes left over", end.leftovers));
            }
        }
        None => {}
    }
    if let Some((times, why)) = &record.amended {
        text.push_str(&format!(", corrected {times} times, the last time since {why}"));
    }
    let notes = [(record.clock_stepped, "clock stepped"), (record.torn, "last line torn")];
    notes.iter().filter(|(set, _)| *set).for_each(|(_, note)| text.push_str(&format!(", {note}")));
    text
}

fn account(opened: &Opened) -> String {
    format!("{} (uid {})", opened.account, opened.uid)
}

fn groups(opened: &Opened) -> String {
    opened.groups.iter().map(|gid| format!(",{gid}")).collect()
}

fn caller(uid: u32, name: Option<&str>) -> String {
    format!("{} (uid {uid})", name.unwrap_or("unknown"))
}

/// What the caller says that it runs.
fn claimed(opened: &Opened) -> Option<String> {
    let claimed = opened.claimed.as_ref()?;
    let text = if claimed.argv.is_empty() { claimed.argv0.clone() } else { claimed.argv.join(" ") };
    (!text.is_empty()).then(|| format!("{text} (as the caller says)"))
}

fn batch(batch: &Batch) -> String {
    let task = batch.task.iter().map(|task| format!(", task {task}"));
    let owner = batch.owner.iter().map(|owner| format!(", of {owner}"));
    let queue = batch.queue.iter().map(|queue| format!(", queue {queue}"));
    format!("{} {}", batch.lrms, batch.jobid) + &task.chain(owner).chain(queue).collect::<String>()
}

fn command(opened: &Opened) -> String {
    if opened.argv.is_empty() { opened.argv0.clone() } else { opened.argv.join(" ") }
}
