//! Records without names: each name becomes a word that is the same wherever it stands, and that only the key leads back to. Pure.
//!
//! The key is the site's secret: without it nobody can try names. Whoever has it can tell which word a known name became.

use crate::store::reduce::NOT_KEPT;
use record::{Denied, Opened, Record, Subject};
use ring::hmac;
use std::path::Path;

/// Characters of a key at least.
const LEAST: usize = 32;

/// The key.
pub struct Key(hmac::Key);

impl Key {
    /// Reads a key from a file that nobody else may read.
    ///
    /// # Errors
    /// Why it is none, with the remedy.
    pub fn load(path: &Path) -> Result<Self, String> {
        use std::os::unix::fs::MetadataExt;
        let shown = path.display();
        let meta = std::fs::metadata(path).map_err(|e| format!("{shown}: {e}"))?;
        if meta.mode() & 0o077 != 0 {
            return Err(format!("{shown}: others may read or write the key; chmod 600 it"));
        }
        let bytes = std::fs::read(path).map_err(|e| format!("{shown}: {e}"))?;
        Self::new(&bytes).ok_or_else(|| {
            format!("{shown}: a key has {LEAST} bytes at least; make one: head -c 32 /dev/urandom | base64")
        })
    }

    /// A key of these bytes, without white space around; `None` when there are too few.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.trim_ascii();
        (bytes.len() >= LEAST).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The word for a name; `kind` keeps an account apart from a subject of the same text.
    fn word(&self, kind: &str, name: &str, digits: usize) -> String {
        let tag = hmac::sign(&self.0, format!("{kind}\0{name}").as_bytes());
        let mut word = hex::encode(tag.as_ref());
        word.truncate(digits);
        word
    }

    fn dn(&self, dn: &str) -> String {
        if dn.is_empty() { String::new() } else { format!("/CN=pseudonym {}", self.word("dn", dn, 32)) }
    }

    fn account(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("p{}", self.word("account", name, 12)) }
    }

    fn subject(&self, subject: Subject) -> Subject {
        Subject { dn: self.dn(&subject.dn), issuer: String::new(), ..subject }
    }

    /// The record with words for names, without numbers of accounts, credentials and arguments. VO, FQANs, hosts, jobs and usage stay.
    pub fn hide(&self, record: &Record) -> Record {
        let opened = record.opened.as_deref().map(|opened| Box::new(self.session(opened.clone())));
        let denied = record.denied.clone().map(|denied| Box::new(self.refusal(*denied)));
        Record { opened, denied, ..record.clone() }
    }

    fn session(&self, o: Opened) -> Opened {
        let claimed = o.claimed.map(|c| record::Claimed { argv0: String::new(), argv: Vec::new(), ..c });
        Opened {
            account: self.account(&o.account),
            pilot_dn: o.pilot_dn.map(|dn| self.dn(&dn)),
            caller_name: o.caller_name.map(|name| self.account(&name)),
            batch: o.batch.map(|batch| self.batch(batch)),
            payload: self.subject(o.payload),
            claimed,
            caller_uid: NOT_KEPT,
            caller_gid: NOT_KEPT,
            uid: NOT_KEPT,
            gid: NOT_KEPT,
            groups: Vec::new(),
            cred_sha256: String::new(),
            cred_serial: String::new(),
            cred_not_after: 0,
            argv0: String::new(),
            argv: Vec::new(),
            argv_sha256: String::new(),
            cwd: String::new(),
            target_proxy: None,
            glexec_id: None,
            ..o
        }
    }

    fn refusal(&self, d: Denied) -> Denied {
        Denied {
            payload: d.payload.map(|subject| self.subject(subject)),
            account: d.account.map(|name| self.account(&name)),
            caller_name: d.caller_name.map(|name| self.account(&name)),
            batch: d.batch.map(|batch| self.batch(batch)),
            caller_uid: NOT_KEPT,
            caller_gid: NOT_KEPT,
            uid: None,
            cred_sha256: None,
            argv0: String::new(),
            glexec_id: None,
            ..d
        }
    }

    fn batch(&self, batch: record::Batch) -> record::Batch {
        record::Batch { owner: batch.owner.map(|name| self.account(&name)), ..batch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Format, Site, export};
    use clap::ValueEnum;
    use record::{Batch, Claimed, State, Usage};
    use std::os::unix::fs::PermissionsExt;

    fn record(dn: &str) -> Record {
        let opened = Opened {
            host: "wn1.example.org".into(),
            payload: Subject {
                dn: dn.into(),
                issuer: "/CN=CA of Ada".into(),
                vo: Some("cms".into()),
                fqans: vec!["/cms".into()],
                ..Subject::default()
            },
            account: "cms017".into(),
            uid: 51017,
            gid: 51017,
            groups: vec![51017],
            pilot_dn: Some("/CN=Robot Ada".into()),
            caller_name: Some("pil-ada".into()),
            batch: Some(Batch {
                lrms: "slurm".into(),
                jobid: "7".into(),
                owner: Some("pil-ada".into()),
                ..Batch::default()
            }),
            cred_sha256: "c0ffee".into(),
            cred_serial: "beef".into(),
            argv: vec!["--user=Ada".into()],
            cwd: "/home/Ada".into(),
            claimed: Some(Claimed {
                argv0: "Ada.sh".into(),
                argv: vec!["--user=Ada".into()],
                gpus: vec!["GPU-1".into()],
                ..Claimed::default()
            }),
            start_unix_ns: 1_782_894_600_000_000_000,
            ..Opened::default()
        };
        Record {
            id: "a1".into(),
            state: State::Closed,
            path: "a1.jsonl".into(),
            opened: Some(Box::new(opened)),
            denied: None,
            pid: Some(7),
            usage: Some(Usage { wall_ns: 3_600_000_000_000, cpu_user_us: 1_000_000, ..Usage::default() }),
            end_unix_ns: Some(1_782_898_200_000_000_000),
            exit: Some(record::Exit::default()),
            clock_stepped: false,
            estimated: false,
            torn: false,
            amended: None,
        }
    }

    fn key(byte: u8) -> Key {
        Key::new(&[byte; 32]).unwrap()
    }

    #[test]
    fn words_are_stable_apart_and_depend_on_the_key() {
        let dn = |key: &Key, dn: &str| key.hide(&record(dn)).opened.unwrap().payload.dn;
        assert_eq!(dn(&key(1), "/CN=Ada"), dn(&key(1), "/CN=Ada"));
        assert_ne!(dn(&key(1), "/CN=Ada"), dn(&key(1), "/CN=Bob"));
        assert_ne!(dn(&key(1), "/CN=Ada"), dn(&key(2), "/CN=Ada"));
        let hidden = key(1).hide(&record("/CN=Ada")).opened.unwrap();
        assert_eq!(hidden.caller_name, hidden.batch.unwrap().owner, "one name, one word");
    }

    #[test]
    fn no_format_lets_a_name_through() {
        let site = Site {
            name: Some("EXAMPLE-T2".into()),
            ce: Some("ce1.example.org".into()),
            benchmark: Some(("HEPscore23".into(), 12.5)),
            vo: None,
            zone: None,
        };
        let hidden = key(1).hide(&record("/CN=Ada"));
        let mut told = vec![
            crate::rows::csv(std::slice::from_ref(&hidden)),
            crate::rows::jsonl(std::slice::from_ref(&hidden)).unwrap(),
        ];
        for format in Format::value_variants() {
            let exported = export(*format, std::slice::from_ref(&hidden), &site);
            // The monitor's lines need the process and the uid, so nobody gets them without.
            let refuses = *format == Format::GlexecMon;
            assert_eq!(exported.refused.is_empty(), !refuses, "{format:?}: {:?}", exported.refused);
            told.extend(exported.pieces.into_iter().map(|piece| piece.text));
        }
        for text in told {
            for name in ["Ada", "cms017", "51017", "c0ffee", "beef", "pil-ada"] {
                assert!(!text.contains(name), "{name} in {text}");
            }
            assert!(text.contains("wn1.example.org") || text.contains("NumberOfJobs"), "{text}");
        }
    }

    #[test]
    fn a_key_that_is_short_or_open_to_others_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let load = |bytes: &[u8], mode: u32| {
            std::fs::write(file.path(), bytes).unwrap();
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            Key::load(file.path()).map(|_| ())
        };
        assert!(load(&[b'x'; 31], 0o600).unwrap_err().contains("32 bytes at least"));
        assert!(load(&[b'x'; 32], 0o640).unwrap_err().contains("chmod 600"));
        assert!(load(b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n", 0o600).is_ok());
    }
}
