//! What a message leaves out and its reader needs: why a payload waits, and what to do about a missing program.

use pilot_api::{Payload, PayloadState, Pilot, PilotState, RawSpec, RefusedPilot};

/// Exit code of a shell for a program that is not there.
const NOT_FOUND: i32 = 127;

/// Why no pilot takes a payload with these requirements; `None` when one can, as soon as it has room.
pub fn unsatisfied(spec: &RawSpec, pilots: &[Pilot]) -> Option<String> {
    let takes = |p: &&Pilot| {
        !matches!(p.state, PilotState::Draining | PilotState::Done | PilotState::Failed | PilotState::Lost)
    };
    let nodes: Vec<_> = pilots.iter().filter(takes).map(|p| &p.registration).collect();
    let Some(most_cores) = nodes.iter().map(|n| n.cores).max() else {
        return Some("no pilot is there now".to_owned());
    };
    let memory = |free: Option<u64>| spec.memory.is_none_or(|wanted| free.is_none_or(|free| free >= wanted));
    let time = |left: Option<u64>| spec.walltime.is_none_or(|wanted| left.is_none_or(|left| left >= wanted));
    let disk = |free: Option<u64>| spec.disk.is_none_or(|wanted| free.is_none_or(|free| free >= wanted));
    let fits = |n: &&pilot_api::Registration| {
        n.cores >= spec.cores && memory(n.memory) && disk(n.disk) && time(n.time_left)
    };
    if nodes.iter().copied().any(|n| fits(&n)) {
        return None;
    }
    let pilots = match nodes.len() {
        1 => "the one pilot that is there cannot take it".to_owned(),
        n => format!("none of the {n} pilots that are there can take it"),
    };
    let most = |amounts: Vec<Option<u64>>| amounts.into_iter().flatten().max().unwrap_or(0);
    let (size, span) = (super::text::size, super::text::span);
    let mut reasons = Vec::new();
    if most_cores < spec.cores {
        reasons.push(format!("it wants {} cores, and the largest has {most_cores}", spec.cores));
    }
    if !nodes.iter().any(|n| memory(n.memory)) {
        let (wanted, has) = (spec.memory.unwrap_or(0), most(nodes.iter().map(|n| n.memory).collect()));
        reasons.push(format!("it wants {} memory, and the largest has {}", size(wanted), size(has)));
    }
    if !nodes.iter().any(|n| disk(n.disk)) {
        let (wanted, has) = (spec.disk.unwrap_or(0), most(nodes.iter().map(|n| n.disk).collect()));
        reasons.push(format!("it wants {} disk, and the largest has {} free", size(wanted), size(has)));
    }
    if !nodes.iter().any(|n| time(n.time_left)) {
        let (wanted, has) = (spec.walltime.unwrap_or(0), most(nodes.iter().map(|n| n.time_left).collect()));
        reasons.push(format!("it wants {} walltime, and the longest has {} left", span(wanted), span(has)));
    }
    if reasons.is_empty() {
        reasons.push("each of cores, memory, disk and walltime can be had, but not all from one".to_owned());
    }
    Some(format!("{pilots}: {}", reasons.join("; ")))
}

/// The same, with what the queue says of pilots that it refused because they do not switch: they are in no list.
pub fn with_refused(why: String, refused: &[RefusedPilot]) -> String {
    let Some(newest) = refused.first() else { return why };
    let many = match refused.len() {
        1 => "a pilot was refused within the last hour".to_owned(),
        n => format!("{n} pilots were refused within the last hour, the newest because"),
    };
    format!("{why}; {many}: {}", newest.reason)
}

/// Whether the payload waits for a pilot, so that [`unsatisfied`] has something to say.
pub fn waits(payload: &Payload) -> bool {
    matches!(payload.state, PayloadState::Received | PayloadState::Waiting)
}

/// A program that is named with a path into the working directory, and that nobody puts there.
pub fn missing_program(spec: &RawSpec) -> Option<String> {
    let program = spec.command.first().filter(|p| p.contains('/') && !p.starts_with('/'))?;
    let name = program.trim_start_matches("./");
    let sent = spec.inputs.iter().any(|input| input.path == name);
    (!sent).then(|| format!("{program} is not among the input files; send it with --input {name}"))
}

/// What of the output is missing, as the pilot that packed it counted.
pub fn missing_output(payload: &Payload) -> Option<String> {
    payload.attempts.last()?.report.as_ref()?.output.as_ref()?.missing()
}

/// What to do about the reason of a payload's end.
pub fn about_end(payload: &Payload) -> Option<String> {
    let code = payload.attempts.last()?.report.as_ref()?.exit_code;
    missing_program(&payload.spec).filter(|_| code == Some(NOT_FOUND))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::tests::payload;

    fn pilot(cores: u32, memory: Option<u64>, time_left: Option<u64>) -> Pilot {
        serde_json::from_value(serde_json::json!({
            "id": uuid::Uuid::nil(), "dn": "/CN=p", "state": "ready", "seen": 0, "running": 0,
            "registration": {"host": "wn1", "slots": 1, "cores": cores, "memory": memory, "switches_identity": true,
                "time_left": time_left},
        }))
        .unwrap()
    }

    fn spec(cores: u32, memory: Option<u64>, walltime: Option<u64>) -> RawSpec {
        serde_json::from_value(
            serde_json::json!({"command": ["x"], "cores": cores, "memory": memory, "walltime": walltime}),
        )
        .unwrap()
    }

    #[test]
    fn the_requirement_that_nobody_meets_is_named() {
        let pilots = [pilot(8, Some(16 << 30), Some(600)), pilot(2, None, None)];
        let why = |cores, memory, walltime| unsatisfied(&spec(cores, memory, walltime), &pilots);
        assert_eq!(why(1, None, None), None);
        assert_eq!(why(8, Some(16 << 30), Some(600)), None);
        assert!(why(64, None, None).unwrap().contains("64 cores, and the largest has 8"));
        assert!(why(8, Some(900 << 30), None).unwrap().contains("not all from one"));
        let one = [pilot(8, Some(16 << 30), Some(600))];
        let why = |cores, memory, walltime| unsatisfied(&spec(cores, memory, walltime), &one).unwrap();
        assert!(why(1, Some(900 << 30), None).contains("900.00 GiB memory, and the largest has 16.00 GiB"));
        let both = why(64, Some(900 << 30), None);
        assert!(both.contains("64 cores") && both.contains("900.00 GiB memory"), "{both}");
        assert!(why(1, None, Some(7200)).contains("2h00m walltime, and the longest has 10m00s left"));
        assert!(unsatisfied(&spec(1, None, None), &[]).unwrap().contains("no pilot"));
        let gone = Pilot { state: PilotState::Lost, ..pilot(8, None, None) };
        assert!(unsatisfied(&spec(1, None, None), &[gone]).unwrap().contains("no pilot"));
    }

    #[test]
    fn refused_pilots_are_told_of() {
        let one =
            RefusedPilot { host: "wn1".into(), dn: "/CN=p".into(), at: 1, reason: "it must switch".into() };
        let other = RefusedPilot { reason: "older".into(), ..one.clone() };
        let why = |refused: &[RefusedPilot]| with_refused("no pilot is there now".into(), refused);
        assert_eq!(why(&[]), "no pilot is there now");
        let said = why(std::slice::from_ref(&one));
        assert_eq!(said, "no pilot is there now; a pilot was refused within the last hour: it must switch");
        assert!(
            why(&[one, other])
                .ends_with("2 pilots were refused within the last hour, the newest because: it must switch")
        );
    }

    #[test]
    fn a_program_that_was_not_sent_is_hinted_at() {
        let of = |text: &str| serde_json::from_str::<RawSpec>(text).unwrap();
        let input = r#"{"path": "run.sh", "sha256": "00", "size": 1, "mode": 493}"#;
        let sent = of(&format!(r#"{{"command": ["./run.sh"], "inputs": [{input}]}}"#));
        assert_eq!(missing_program(&sent), None);
        let missing = of(r#"{"command": ["./run.sh"]}"#);
        assert!(missing_program(&missing).unwrap().contains("--input run.sh"));
        for found in ["/bin/sh", "sleep"] {
            assert_eq!(missing_program(&of(&format!(r#"{{"command": ["{found}"]}}"#))), None);
        }
        let mut ended = payload(PayloadState::Failed, Some(127));
        ended.spec = missing;
        assert!(about_end(&ended).unwrap().contains("--input run.sh"));
        ended.attempts[0].report.as_mut().unwrap().exit_code = Some(1);
        assert_eq!(about_end(&ended), None);
    }
}
