//! Lines as `glexec_monitor` wrote them into its file, for accounting probes that read one (Gratia's, until 2018).
//!
//! A probe pairs lines by the two numbers in brackets, takes the oldest FQAN as the primary one, and wants whole seconds. The form is that
//! of syslog: local time without a year. A probe skips what it cannot read, so nothing of a name may end a line, a text or a pair early.

use super::facts::{Facts, ascii};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// The lines of sessions, in the order in which they ended: a probe goes on where it stopped by time.
pub(super) fn lines(facts: &[Facts<'_>], zone: &TimeZone) -> String {
    let mut sorted: Vec<&Facts<'_>> = facts.iter().collect();
    sorted.sort_by_key(|facts| (facts.end_s, facts.id));
    sorted.into_iter().map(|facts| session(facts, zone)).collect()
}

fn session(facts: &Facts<'_>, zone: &TimeZone) -> String {
    let opened = facts.opened;
    let host: String = facts.host.chars().take_while(|c| *c != '.').collect();
    let pair = format!("{}#{}", facts.record.pid.unwrap_or(0), opened.supervisor_pid);
    let line = |at_s: u64, text: &str| {
        format!("{} {} glexec.mon[{pair}]: {text}\n", stamp(at_s, zone), plain(&host))
    };
    let mut text = line(facts.start_s, &format!("Started, target uid {}", opened.uid));
    text.push_str(&line(facts.start_s, &format!("Used DN: \"{}\"", plain(&facts.dn))));
    if let Some(vo) = &facts.vo {
        let issuer = opened.payload.voms_issuer.as_deref().unwrap_or_default();
        let said = format!("Used VO: \"{}\" Issuer: \"{}\"", plain(vo), plain(issuer));
        text.push_str(&line(facts.start_s, &said));
    }
    for fqan in &opened.payload.fqans {
        text.push_str(&line(facts.start_s, &format!("Used FQAN: \"{}\"", plain(fqan))));
    }
    let (user, system) = (facts.user_us / 1_000_000, facts.system_us / 1_000_000);
    text.push_str(&line(facts.end_s, &format!("Terminated, CPU user {user} system {system}")));
    text
}

/// `Jul  1 08:30:00`, as syslog writes it.
fn stamp(at_s: u64, zone: &TimeZone) -> String {
    let at = Timestamp::from_second(i64::try_from(at_s).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
    at.to_zoned(zone.clone()).strftime("%b %e %H:%M:%S").to_string()
}

/// ASCII without quotes, and without the beginning of another line.
fn plain(text: &str) -> String {
    let text = ascii(text).replace('"', "\\x22");
    text.replace("glexec.mon[", "glexec.mon(").replace("glemon[", "glemon(")
}
