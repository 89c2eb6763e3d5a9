//! The users' commands at their edges: ids, several payloads, closed outputs, hostile output, messages that lead to the mend.
#![allow(clippy::unwrap_used, reason = "helpers of a test fail the test")]

use end_to_end::site::Site;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};

/// What these tests ask of a site more than others.
trait Edges {
    /// A command of Alice, to be run.
    fn alices(&self, args: &[&str]) -> Command;

    /// A command of Alice: exit code, standard output, standard error.
    fn run(&self, args: &[&str]) -> (Option<i32>, String, String);

    /// Hands a shell script in; the payload's id.
    fn script(&self, options: &[&str], script: &str) -> String;
}

impl Edges for Site {
    fn alices(&self, args: &[&str]) -> Command {
        let mut command = self.command();
        command
            .env("X509_USER_PROXY", &self.alice)
            .env("PILOT_QUEUE", &self.url)
            .current_dir(self.dir.path());
        command.args(args).stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let Output { status, stdout, stderr } = self.alices(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status.code(), text(stdout), text(stderr))
    }

    fn script(&self, options: &[&str], script: &str) -> String {
        self.ok(&[&["submit"], options, &["--", "/bin/sh", "-c", script]].concat()).trim().to_owned()
    }
}

#[test]
fn a_payload_is_known_by_the_beginning_of_its_id_and_as_the_last_one() {
    let site = Site::new("30s");
    let (code, _, errors) = site.run(&["show", "last"]);
    assert!(code == Some(1) && errors.contains("pilot submit"), "{errors}");
    let first = site.script(&[], "exit 0");
    let second = site.script(&[], "exit 0");
    for name in [&first[..36], &first[..35], &first.replace('-', "")[..31]] {
        assert!(site.ok(&["show", name]).contains(&first), "{name}");
    }
    assert!(site.ok(&["show", "last"]).contains(&second));
    let (code, _, errors) = site.run(&["show", &first[..2]]);
    assert_eq!(code, Some(1), "{errors}");
    for words in ["2 payloads", first.as_str(), second.as_str(), "write more of it"] {
        assert!(errors.contains(words), "{errors}");
    }
    let (code, _, errors) = site.run(&["show", "ffff"]);
    assert!(code == Some(1) && errors.contains("pilot jobs"), "{errors}");
    assert_eq!(site.run(&["show", "nonsense"]).0, Some(2));
}

#[test]
fn an_array_is_named_by_its_own_id_in_every_command() {
    let site = Site::new("30s");
    let (_, ids, errors) = site.run(&[
        "submit",
        "--array",
        "1-3",
        "--output",
        "o",
        "--",
        "/bin/sh",
        "-c",
        "echo $PILOT_ARRAY_INDEX | tee o",
    ]);
    let first: serde_json::Value =
        serde_json::from_str(&site.ok(&["show", "--json", ids.lines().next().unwrap()])).unwrap();
    let array = first["payload"]["array"].as_str().unwrap().to_owned();
    assert!(errors.contains(&array), "{errors}");
    // Elements and array begin with the same moment: only the rest of the array's id is its own.
    for name in [&array[..], &array[..35], "last"] {
        let explained = site.ok(&["explain", name]);
        assert!(
            ids.lines().all(|id| explained.contains(id)) && explained.lines().count() == 3,
            "{explained}"
        );
    }
    assert_eq!(site.ok(&["hold", &array]).lines().filter(|l| l.ends_with(" held")).count(), 3);
    assert_eq!(site.ok(&["release", &array]).lines().filter(|l| l.ends_with(" waiting")).count(), 3);
    let _agent = site.agent("agent", &["--slots", "3"]);
    assert_eq!(site.run(&["wait", &array]).0, Some(0));
    assert_eq!(site.ok(&["logs", &array]), "1\n2\n3\n");
    assert!(site.ok(&["show", &array]).matches("exit code 0").count() == 3);
    let to = site.path("home");
    site.ok(&["output", &array, "--to", &to]);
    for index in ["1", "2", "3"] {
        assert_eq!(fs::read_to_string(format!("{to}/{index}/o")).unwrap(), format!("{index}\n"));
    }
    let (code, _, errors) = site.run(&["cancel", &array]);
    assert_eq!((code, errors.lines().count()), (Some(1), 3), "each has ended: {errors}");
}

#[test]
fn cancel_and_release_say_what_they_did_and_go_on() {
    let site = Site::new("30s");
    let ids: Vec<String> = (0..5).map(|_| site.script(&[], "sleep 60")).collect();
    let held = site.ok(&["hold", &ids[0], &ids[2]]);
    assert!(held.contains(&format!("{} held", ids[0])), "{held}");
    // one has ended: it is refused, and the last one is released all the same
    site.ok(&["cancel", &ids[4]]);
    let (code, out, errors) = site.run(&["release", &ids[0], &ids[4], "ffffffff", &ids[2]]);
    assert_eq!(code, Some(1), "{errors}");
    assert!(
        out.contains(&format!("{} waiting", ids[0])) && out.contains(&format!("{} waiting", ids[2])),
        "{out}"
    );
    assert!(errors.contains(&ids[4]) && errors.contains("ffffffff"), "{errors}");
    site.ok(&["hold", &ids[0]]);
    let said = site.ok(&["cancel", "--state", "held"]);
    assert_eq!(said, format!("{} cancelled\n", ids[0]));
    let _agent = site.agent("agent", &[]);
    site.await_state(&ids[1], "running");
    let said = site.ok(&["cancel", "--all"]);
    assert!(said.contains(&format!("{} running: its pilot has been asked to end it", ids[1])), "{said}");
    assert!(said.contains(&format!("{} cancelled", ids[3])) && !said.contains(&ids[0]), "{said}");
    assert_eq!(site.run(&["wait", &ids[1]]).0, Some(143));
    let (code, out, errors) = site.run(&["cancel", "--all"]);
    assert_eq!((code, out.as_str()), (Some(0), ""), "{errors}");
    assert!(errors.contains("nothing to cancel"), "{errors}");
    for usage in [&["cancel"][..], &["cancel", "--all", &ids[0]]] {
        assert_eq!(site.run(usage).0, Some(2), "{usage:?}");
    }
}

#[test]
fn states_are_chosen_before_they_are_counted() {
    let site = Site::new("30s");
    let held = site.script(&[], "true");
    site.ok(&["hold", &held]);
    site.ok(&["submit", "--array", "1-1200", "--", "/bin/true"]);
    let listed: serde_json::Value =
        serde_json::from_str(&site.ok(&["jobs", "--json", "--state", "held"])).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), listed[0]["id"].as_str()), (1, Some(held.as_str())));
    let two = site.ok(&["jobs", "--json", "--state", "waiting", "--limit", "2"]);
    let two: serde_json::Value = serde_json::from_str(&two).unwrap();
    let indices: Vec<_> =
        two.as_array().unwrap().iter().map(|p| p["array_index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [1199, 1200]);
}

#[test]
fn an_output_that_nobody_reads_is_no_failure() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let id = site.script(&[], "i=0; while [ $i -lt 20000 ]; do echo line $i of a long log; i=$((i+1)); done");
    assert_eq!(site.run(&["wait", &id]).0, Some(0));
    for args in [&["logs", &id][..], &["logs", "-f", &id], &["jobs"], &["show", &id]] {
        let mut child = site.alices(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        // `head -1`
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{args:?}: {errors}");
        assert_eq!(errors, "", "{args:?}");
    }
}

#[test]
fn an_attempt_that_does_not_exist_is_no_empty_log() {
    let site = Site::new("30s");
    let waiting = site.script(&["--cores", "64"], "true");
    let (code, _, errors) = site.run(&["logs", "--attempt", "1", &waiting]);
    assert!(code == Some(1) && errors.contains("none yet"), "{errors}");
    let _agent = site.agent("agent", &[]);
    let id = site.script(&[], "echo hello");
    assert_eq!(site.run(&["wait", &id]).0, Some(0));
    assert_eq!(site.ok(&["logs", "--attempt", "1", &id]), "hello\n");
    let (code, out, errors) = site.run(&["logs", "--attempt", "7", &id]);
    assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
    assert!(errors.contains("no attempt 7") && errors.contains("its attempts: 1"), "{errors}");
}

#[test]
fn output_replaces_nothing_and_says_what_it_left_out() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let script = "echo new > a.txt; echo new > b.txt; echo alias > .bashrc; mkdir d; echo deep > d/.hidden";
    let id = site.script(&["--output", "*.txt", "--output", "*bashrc", "--output", "d"], script);
    assert_eq!(site.run(&["wait", &id]).0, Some(0), "{}", site.log("agent"));
    fs::create_dir(site.path("home")).unwrap();
    fs::write(site.path("home/a.txt"), "mine").unwrap();
    let (code, out, errors) = site.run(&["output", &id, "--to", "home"]);
    assert_eq!(code, Some(1), "{errors}");
    let mut listed: Vec<_> = out.lines().collect();
    listed.sort_unstable();
    assert_eq!(listed, ["home/b.txt", "home/d/.hidden"]);
    for words in [
        "2 of 4 output files were not written",
        "a.txt is there already; --force",
        ".bashrc: begins with a dot",
    ] {
        assert!(errors.contains(words), "{words} is missing in {errors}");
    }
    assert_eq!(fs::read_to_string(site.path("home/a.txt")).unwrap(), "mine");
    assert!(!site.dir.path().join("home/.bashrc").exists());
    site.ok(&["output", &id, "--to", "home", "--force", "--dot-files"]);
    assert_eq!(fs::read_to_string(site.path("home/a.txt")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(site.path("home/.bashrc")).unwrap(), "alias\n");
    // without --to: a directory named after the payload
    assert_eq!(site.run(&["output", &id[..35]]).0, Some(1), "the dot file is left out");
    assert!(site.dir.path().join(&id).join("d/.hidden").exists());
}

#[test]
fn output_that_was_lost_is_said_wherever_one_looks() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let id = site.script(&["--output", "a.txt", "--output", "*.root"], "echo hello > a.txt");
    let (code, _, errors) = site.run(&["wait", &id]);
    assert!(
        code == Some(0) && errors.contains("done, but 1 of the output patterns matched nothing"),
        "{errors}"
    );
    assert!(site.ok(&["show", &id]).contains("1 of the output patterns matched nothing: \"*.root\""));
    let (code, out, errors) = site.run(&["output", &id, "--to", "home"]);
    assert_eq!((code, out.as_str()), (Some(1), "home/a.txt\n"), "{errors}");
    assert!(errors.contains("*.root"), "{errors}");
    let strict = ["submit", "--missing-output", "fail", "--output", "*.root", "--", "/bin/true"];
    let id = site.ok(&strict).trim().to_owned();
    let (code, _, errors) = site.run(&["wait", &id]);
    assert!(code == Some(1) && errors.contains("*.root"), "{code:?} {errors}");
    let (code, _, errors) = site.run(&["output", &id]);
    assert!(code == Some(1) && errors.contains("*.root"), "{errors}");
}

#[test]
fn what_keeps_a_payload_from_running_is_said() {
    let site = Site::new("30s");
    let (code, _, errors) = site.run(&["submit", "--", "/bin/true"]);
    assert!(code == Some(0) && errors.contains("no pilot is there now"), "{errors}");
    let _agent = site.agent("agent", &[]);
    assert_eq!(site.run(&["wait", "last"]).0, Some(0));
    let (code, out, errors) = site.run(&["submit", "--cores", "4000", "--", "/bin/true"]);
    assert_eq!((code, out.lines().count()), (Some(0), 1), "{errors}");
    assert!(errors.contains("it wants 4000 cores"), "{errors}");
    assert!(site.ok(&["show", "last"]).contains("it wants 4000 cores"));
    assert!(site.ok(&["explain", "last"]).contains("waiting: the one pilot that is there cannot take it"));
    let (_, out, errors) = site.run(&["submit", "--", "./run.sh"]);
    assert!(errors.contains("--input run.sh"), "{errors}");
    let (code, _, errors) = site.run(&["wait", out.trim()]);
    assert!(code == Some(127) && errors.contains("--input run.sh"), "{errors}");
    assert!(site.ok(&["show", out.trim()]).contains("--input run.sh"));
}

#[test]
fn a_connection_that_fails_leads_to_the_mend() {
    let mut site = Site::closed("30s");
    site.address = "0.0.0.0:0".to_owned();
    site.start_queue();
    let other = tempfile::tempdir().unwrap();
    let stranger = harness::pki::Pki::new(other.path()).unwrap();
    let told = |change: &dyn Fn(&mut std::process::Command)| {
        let mut command = site.alices(&["jobs"]);
        change(&mut command);
        let out = command.output().unwrap();
        (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let (code, said) = told(&|c| {
        c.env("X509_CERT_DIR", &stranger.ca_dir);
    });
    assert!(
        code == Some(3) && said.contains("X509_CERT_DIR") && !said.contains("that the queue runs"),
        "{said}"
    );
    let port = site.url.rsplit(':').next().unwrap();
    let (code, said) = told(&|c| {
        c.env("PILOT_QUEUE", format!("https://127.0.0.2:{port}"));
    });
    assert!(code == Some(3) && said.contains("certificate is for another host"), "{said}");
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = plain.local_addr().unwrap();
    std::thread::spawn(move || {
        use std::io::Write;
        for stream in plain.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (code, said) = told(&|c| {
        c.env("PILOT_QUEUE", format!("https://{address}"));
    });
    assert!(code == Some(3) && said.contains("no TLS is spoken"), "{said}");
    let (code, said) = told(&|c| {
        c.env("PILOT_QUEUE", "https://127.0.0.1:1");
    });
    assert!(code == Some(3) && said.contains("that the queue runs"), "{said}");
}

#[test]
fn a_proxy_with_another_key_is_named() {
    let site = Site::new("30s");
    let bob = site.pki.user("bob", "Bob").unwrap();
    let mixed = site.path("mixed.pem");
    let read = |path: &std::path::Path| fs::read_to_string(path).unwrap();
    fs::write(&mixed, read(&bob.cert) + &read(&site.alice)).unwrap();
    for args in [&["jobs"][..], &["submit", "--", "/bin/true"]] {
        let out = site.alices(args).env("X509_USER_PROXY", &mixed).output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{said}");
        assert!(
            said.contains("mixed.pem") && said.contains("does not belong to the first certificate"),
            "{said}"
        );
    }
}

#[test]
fn logs_are_safe_on_a_terminal_and_raw_in_a_pipe() {
    let site = Site::new("30s");
    let _agent = site.agent("agent", &[]);
    let id = site.script(&[], "printf '\\033[31mred\\342\\200\\256over\\n'");
    assert_eq!(site.run(&["wait", &id]).0, Some(0));
    assert_eq!(site.ok(&["logs", &id]), "\u{1b}[31mred\u{202e}over\n");
    let on_terminal = |args: &[&str]| {
        let pty = nix::pty::openpty(None, None).unwrap();
        let slave = File::from(pty.slave);
        let mut child = site.alices(args).stdout(slave).spawn().unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let (mut text, mut master) = (Vec::new(), File::from(pty.master));
        // the end of a terminal that everybody has closed is an error
        let _ = master.read_to_end(&mut text);
        String::from_utf8_lossy(&text).replace("\r\n", "\n")
    };
    assert_eq!(on_terminal(&["logs", &id]), "\\u{1b}[31mred\\u{202e}over\n");
    assert_eq!(on_terminal(&["logs", "--raw", &id]), "\u{1b}[31mred\u{202e}over\n");
}
