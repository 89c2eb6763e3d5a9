//! Plays a `glexec-verify` or `glexec-map` that an intruder has taken over, for the security tests.
//!
//! Put in their place, it finds its part in what it is asked about: as verifier in the words of the credential
//! (`hostile VERIFY MAP`), as mapper in the common name that the verifier has made of `MAP`. A part is a way to break the
//! conversation (`silent`, `truncated`, `exit-1` ...), a lie (`other-digest`, `root` ...) or a look around (`status`,
//! `limits`, `fds`, `place`), which comes back as the reason of a refusal.

use helper::{MapReply, MapRequest, VerifyRequest, encode_verify_reply, frame_length};
use identity::{Dn, Mapping, Refusal, RefusalKind, VerifiedIdentity};
use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::User;
use std::io::{Read, Write};
use std::time::Duration;

/// The magic, the kind and the length of a frame.
const HEADER: usize = 9;
const FOREVER: Duration = Duration::from_secs(600);

fn main() {
    let mapper = std::env::args().next().is_some_and(|name| name.ends_with("glexec-map"));
    let frame = read_frame();
    let (part, reply) = if mapper { as_mapper(&frame) } else { as_verifier(&frame) };
    say(&part, &reply);
}

fn read_frame() -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    std::io::stdin().read_exact(&mut frame).expect("glexec sends a header");
    let length = frame_length(&frame, usize::MAX).expect("it is a good one").expect("and it is whole");
    frame.resize(length, 0);
    std::io::stdin().read_exact(&mut frame[HEADER..]).expect("glexec sends all of it");
    frame
}

fn as_verifier(frame: &[u8]) -> (String, Vec<u8>) {
    let request = VerifyRequest::decode(frame).expect("glexec asks well");
    let text = String::from_utf8_lossy(&request.credential).into_owned();
    let words: Vec<_> = text.split_whitespace().collect();
    let (part, map) = (words[1].to_owned(), *words.get(2).unwrap_or(&"good"));
    if let Some(seen) = look(&part) {
        let refusal = Refusal { kind: RefusalKind::Malformed, reason: seen };
        return (part, encode_verify_reply(&Err(refusal)));
    }
    let dn = |text: &str| Dn::parse(text).expect("names here are good");
    let mut identity = VerifiedIdentity {
        subject: dn(&format!("/O=Hostile/CN={map}")),
        issuer: dn("/O=Hostile/CN=CA"),
        serial: "01".into(),
        not_after: request.now + 3600,
        limited: false,
        digest: openssl::sha::sha256(&request.credential),
        voms: None,
        chain_pem: Vec::new(),
    };
    match part.as_str() {
        "other-digest" => identity.digest[0] ^= 1,
        "expired" => identity.not_after = request.now - 1,
        _ => {}
    }
    let mut reply = encode_verify_reply(&Ok(identity));
    if part == "control-character" {
        // The frame's first field is the subject: a tag, four bytes of length, the text.
        reply[HEADER + 7] = b'\n';
    }
    (part, reply)
}

fn as_mapper(frame: &[u8]) -> (String, Vec<u8>) {
    let request = MapRequest::decode(frame).expect("glexec asks well");
    let subject = request.identity.subject.as_str().to_owned();
    let part = subject.rsplit('=').next().unwrap_or_default().to_owned();
    let uid = |name: &str| User::from_name(name).ok().flatten().map(|u| u.uid.as_raw());
    let named = |name: &str| Mapping { account: Some(name.into()), ..Mapping::default() };
    let mapping = match part.as_str() {
        "uid-0" => Mapping { uid: Some(0), ..Mapping::default() },
        "name-and-uid-0" => Mapping { uid: Some(0), ..named("alice") },
        "uid-of-another" => Mapping { uid: uid("bob"), ..named("alice") },
        "uid-4294967295" => Mapping { uid: Some(u32::MAX), ..Mapping::default() },
        "gid-0" => Mapping { gid: Some(0), ..named("alice") },
        "gid-of-the-system" => Mapping { gid: Some(42), ..named("alice") },
        "groups-0" => Mapping { groups: vec![0], ..named("alice") },
        "groups-of-the-system" => Mapping { groups: vec![42, 6], ..named("alice") },
        "group-root" => Mapping { group: Some("root".into()), ..named("alice") },
        "root" | "daemon" | "pilot" | "glexec" | "stranger" | "nosuchaccount" => named(&part),
        "path-as-name" => named("../../etc/passwd"),
        "empty-name" => named(""),
        _ => named("alice"),
    };
    (part, MapReply::Mapped(mapping).encode())
}

/// Says the reply as the part demands.
fn say(part: &str, reply: &[u8]) {
    let put = |bytes: &[u8]| {
        let mut out = std::io::stdout().lock();
        // Nobody may be listening any more; then there is nothing left to play.
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    };
    match part {
        "silent" => std::thread::sleep(FOREVER),
        "slow" => reply.iter().for_each(|byte| {
            put(&[*byte]);
            std::thread::sleep(Duration::from_millis(500));
        }),
        "nothing" => {}
        "truncated" => put(&reply[..reply.len() / 2]),
        "header-only" => put(&reply[..HEADER]),
        "oversized" => put(&[&reply[..5], &u32::MAX.to_be_bytes()].concat()),
        "endless" => put(&[&reply[..5], &[0, 7, 0, 0], &vec![b'x'; 8 << 20][..]].concat()),
        "wrong-kind" => put(&[&reply[..4], &[reply[4] ^ 7], &reply[5..]].concat()),
        "wrong-magic" => put(&[b"PLT9", &reply[4..]].concat()),
        "extra-bytes" => put(&[reply, b"x"].concat()),
        "unknown-field" => put(&with_field(reply, 200)),
        "field-twice" => put(&with_field(reply, reply[HEADER])),
        "exit-1" => {
            put(reply);
            std::process::exit(1);
        }
        "killed" => {
            put(reply);
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
        }
        "filtered" => {
            put(reply);
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSYS);
        }
        "lingers" => {
            put(reply);
            std::thread::sleep(FOREVER);
        }
        "forks" => {
            if fork_is_child() {
                // The survivor: out of reach of whoever waits for its parent.
                let _ = nix::unistd::setsid();
                std::thread::sleep(FOREVER);
            }
            put(reply);
        }
        _ => put(reply),
    }
}

/// The frame with one more field: one byte of tag, four of length, one of value.
fn with_field(reply: &[u8], tag: u8) -> Vec<u8> {
    let body = [&reply[HEADER..], &[tag, 0, 0, 0, 1, b'/']].concat();
    let length = u32::try_from(body.len()).expect("replies are short");
    [&reply[..5], &length.to_be_bytes(), &body].concat()
}

fn fork_is_child() -> bool {
    // SAFETY: this program has one thread.
    unsafe { libc::fork() == 0 }
}

/// What this process was given; short enough to fit the reason of a refusal.
fn look(part: &str) -> Option<String> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let joined = |lines: Vec<String>| lines.join("; ");
    match part {
        "status" => {
            let wanted = ["Uid", "Gid", "Groups", "Cap", "NoNewPrivs", "PPid"];
            let status = read("/proc/self/status");
            let lines = status.lines().filter(|l| wanted.iter().any(|w| l.starts_with(w)));
            Some(joined(lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect()))
        }
        "limits" => {
            let all = [
                Resource::RLIMIT_CORE,
                Resource::RLIMIT_FSIZE,
                Resource::RLIMIT_NOFILE,
                Resource::RLIMIT_AS,
                Resource::RLIMIT_CPU,
            ];
            Some(joined(all.iter().map(|r| format!("{r:?} {:?}", getrlimit(*r).unwrap_or((1, 1)))).collect()))
        }
        "fds" => {
            let target = |n: i32| std::fs::read_link(format!("/proc/self/fd/{n}")).ok();
            let open = (0..1024).filter_map(|n| target(n).map(|t| format!("{n} {}", t.display())));
            Some(joined(open.collect()))
        }
        "place" => {
            let cwd = std::env::current_dir().unwrap_or_default();
            let environment: Vec<_> = std::env::vars().map(|(n, v)| format!("{n}={v}")).collect();
            let umask = nix::sys::stat::umask(nix::sys::stat::Mode::empty()).bits();
            Some(format!("{} {umask:03o} {}", cwd.display(), environment.join(" ")))
        }
        _ => None,
    }
}
