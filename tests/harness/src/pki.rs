//! A throw-away grid: a CA with its directory, a VOMS server, a host, people, and proxies of every kind.
//!
//! Good proxies come from the real `grid-proxy-init` and `voms-proxy-fake`; bad ones, which those tools refuse to make, from [`Craft`].

use openssl::asn1::{Asn1Integer, Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, PKeyRef, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName,
    SubjectKeyIdentifier,
};
use openssl::x509::{
    X509, X509Builder, X509CrlBuilder, X509Extension, X509Name, X509NameRef, X509RevokedBuilder,
};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY: i64 = 86_400;
/// The host that the VOMS server claims to be.
pub const VOMS_HOST: &str = "voms.test";

fn failed(what: impl std::fmt::Display) -> io::Error {
    io::Error::other(what.to_string())
}

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

/// A certificate with its key, in two files.
#[derive(Debug, Clone)]
pub struct User {
    /// Short name, used for files.
    pub name: String,
    /// One-line subject, as in a `grid-mapfile`.
    pub dn: String,
    /// PEM certificate.
    pub cert: PathBuf,
    /// PEM key, mode 0600.
    pub key: PathBuf,
}

/// A CA that can sign and revoke.
struct Authority {
    cert: X509,
    key: PKey<Private>,
    revoked: Mutex<Vec<u32>>,
}

/// The grid in a directory.
pub struct Pki {
    dir: PathBuf,
    /// `X509_CERT_DIR`: CAs, signing policies and revocation lists under both kinds of hash.
    pub ca_dir: PathBuf,
    /// `X509_VOMS_DIR`: LSC files for the VOs `cms` and `dteam`.
    pub voms_dir: PathBuf,
    /// Host certificate for `localhost`, `127.0.0.1`, `::1` and the host's name.
    pub host_cert: PathBuf,
    /// Its key.
    pub host_key: PathBuf,
    ca: Authority,
    voms: User,
    serial: AtomicU32,
}

/// What an end-entity certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Person,
    Host,
}

/// A name from pairs of attribute and value.
pub fn name(parts: &[(&str, &str)]) -> io::Result<X509Name> {
    let mut builder = X509Name::builder()?;
    for (key, value) in parts {
        builder.append_entry_by_text(key, value)?;
    }
    Ok(builder.build())
}

/// The form of `X509_NAME_oneline` for plain ASCII names.
fn one_line(name: &X509NameRef) -> String {
    let part = |e: &openssl::x509::X509NameEntryRef| {
        let key = e.object().nid().short_name().unwrap_or("?").to_owned();
        format!("/{key}={}", String::from_utf8_lossy(e.data().as_slice()))
    };
    name.entries().map(part).collect()
}

fn new_key(bits: u32) -> io::Result<PKey<Private>> {
    Ok(PKey::from_rsa(Rsa::generate(bits)?)?)
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let _ = fs::remove_file(path);
    let mut file = fs::File::options().write(true).create_new(true).mode(mode).open(path)?;
    io::Write::write_all(&mut file, bytes)
}

fn start(
    subject: &X509NameRef,
    issuer: &X509NameRef,
    serial: u32,
    from: i64,
    to: i64,
) -> io::Result<X509Builder> {
    let mut builder = X509::builder()?;
    builder.set_version(2)?;
    builder.set_serial_number(&*Asn1Integer::from_bn(&*BigNum::from_u32(serial)?)?)?;
    builder.set_subject_name(subject)?;
    builder.set_issuer_name(issuer)?;
    builder.set_not_before(&*Asn1Time::from_unix(from)?)?;
    builder.set_not_after(&*Asn1Time::from_unix(to)?)?;
    Ok(builder)
}

impl Authority {
    fn new(parts: &[(&str, &str)]) -> io::Result<Self> {
        let key = new_key(2048)?;
        let subject = name(parts)?;
        let mut builder = start(&subject, &subject, 1, now() - DAY, now() + 3650 * DAY)?;
        builder.set_pubkey(&key)?;
        builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        builder.append_extension(KeyUsage::new().critical().key_cert_sign().crl_sign().build()?)?;
        let ski = SubjectKeyIdentifier::new().build(&builder.x509v3_context(None, None))?;
        builder.append_extension(ski)?;
        builder.sign(&key, MessageDigest::sha256())?;
        Ok(Self { cert: builder.build(), key, revoked: Mutex::new(Vec::new()) })
    }

    /// The names under which this CA's files are looked for.
    fn hashes(&self) -> io::Result<[String; 2]> {
        let der = self.cert.subject_name().to_der()?;
        let old = openssl::hash::hash(MessageDigest::md5(), &der)?;
        let old = u32::from_le_bytes([old[0], old[1], old[2], old[3]]);
        Ok([format!("{:08x}", self.cert.subject_name_hash()), format!("{old:08x}")])
    }

    fn install(&self, dir: &Path, pattern: &str) -> io::Result<()> {
        let dn = one_line(self.cert.subject_name());
        let policy = format!(
            "access_id_CA X509 '{dn}'\npos_rights globus CA:sign\ncond_subjects globus '\"{pattern}\"'\n"
        );
        for hash in self.hashes()? {
            write(&dir.join(format!("{hash}.0")), &self.cert.to_pem()?, 0o644)?;
            write(&dir.join(format!("{hash}.signing_policy")), policy.as_bytes(), 0o644)?;
        }
        self.publish_crl(dir, -DAY, 30 * DAY)
    }

    /// Writes the revocation list, valid from and to these seconds from now.
    fn publish_crl(&self, dir: &Path, from: i64, to: i64) -> io::Result<()> {
        let mut builder = X509CrlBuilder::new()?;
        builder.set_issuer_name(self.cert.subject_name())?;
        builder.set_last_update(&*Asn1Time::from_unix(now() + from)?)?;
        builder.set_next_update(&*Asn1Time::from_unix(now() + to)?)?;
        for serial in self.revoked.lock().map_err(failed)?.iter() {
            let mut entry = X509RevokedBuilder::new()?;
            entry.set_serial_number(&*Asn1Integer::from_bn(&*BigNum::from_u32(*serial)?)?)?;
            entry.set_revocation_date(&*Asn1Time::from_unix(now() - 60)?)?;
            builder.add_revoked(entry.build())?;
        }
        let key_id = self.cert.subject_key_id().map(|id| id.as_slice().to_vec()).unwrap_or_default();
        builder.append_extension(extension("2.5.29.35", false, &tlv(0x30, &tlv(0x80, &key_id)))?)?;
        builder.append_extension(extension("2.5.29.20", false, &tlv(0x02, &[1]))?)?;
        builder.sign(&self.key, MessageDigest::sha256())?;
        let pem = builder.build()?.to_pem()?;
        self.hashes()?.iter().try_for_each(|h| write(&dir.join(format!("{h}.r0")), &pem, 0o644))
    }
}

impl Pki {
    /// Makes everything below `dir`: one CA, a VOMS server, a host certificate; about a second.
    pub fn new(dir: &Path) -> io::Result<Pki> {
        let ca_dir = dir.join("certificates");
        let voms_dir = dir.join("vomsdir");
        for made in [dir, &ca_dir, &voms_dir] {
            fs::create_dir_all(made)?;
            fs::set_permissions(made, fs::Permissions::from_mode(0o755))?;
        }
        let ca = Authority::new(&[("C", "XX"), ("O", "Test Grid"), ("CN", "Test Grid CA")])?;
        ca.install(&ca_dir, "/C=XX/O=Test Grid/*")?;
        let nobody =
            User { name: String::new(), dn: String::new(), cert: PathBuf::new(), key: PathBuf::new() };
        let mut pki = Pki {
            dir: dir.to_owned(),
            ca_dir,
            voms_dir,
            host_cert: PathBuf::new(),
            host_key: PathBuf::new(),
            ca,
            voms: nobody,
            serial: AtomicU32::new(0x1000),
        };
        let host = fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned();
        let host =
            pki.issue("host", &[("C", "XX"), ("O", "Test Grid"), ("CN", &host)], Purpose::Host, 365)?;
        pki.voms =
            pki.issue("voms", &[("C", "XX"), ("O", "Test Grid"), ("CN", VOMS_HOST)], Purpose::Host, 365)?;
        pki.host_cert = host.cert;
        pki.host_key = host.key;
        pki.add_vo("cms")?;
        pki.add_vo("dteam")?;
        Ok(pki)
    }

    /// The directory of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One-line subject of the CA.
    pub fn ca_dn(&self) -> String {
        one_line(self.ca.cert.subject_name())
    }

    /// PEM certificate and key of the VOMS server.
    pub fn voms_server(&self) -> &User {
        &self.voms
    }

    /// Lets the VOMS server speak for another VO.
    pub fn add_vo(&self, vo: &str) -> io::Result<()> {
        let lsc = format!("{}\n{}\n", self.voms.dn, self.ca_dn());
        write(&self.voms_dir.join(vo).join(format!("{VOMS_HOST}.lsc")), lsc.as_bytes(), 0o644)
    }

    /// A person: `/C=XX/O=Test Grid/OU=people/CN=<cn>`.
    pub fn user(&self, name: &str, cn: &str) -> io::Result<User> {
        self.subject(name, &[("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", cn)], 365)
    }

    /// A program: `/C=XX/O=Test Grid/OU=robots/CN=<cn>`.
    pub fn robot(&self, name: &str, cn: &str) -> io::Result<User> {
        self.subject(name, &[("C", "XX"), ("O", "Test Grid"), ("OU", "robots"), ("CN", cn)], 365)
    }

    /// A person with that subject, valid for so many days (negative: expired yesterday).
    pub fn subject(&self, name: &str, parts: &[(&str, &str)], days: i64) -> io::Result<User> {
        self.issue(name, parts, Purpose::Person, days)
    }

    /// A person whose CA this grid does not know.
    pub fn stranger(&self, name: &str, cn: &str) -> io::Result<User> {
        let other = Authority::new(&[("C", "XX"), ("O", "Other Grid"), ("CN", "Other CA")])?;
        self.issue_by(&other, name, &[("C", "XX"), ("O", "Other Grid"), ("CN", cn)], Purpose::Person, 365)
    }

    /// A certificate that `user` made, as if a user were a CA; the file holds certificate, key and the user's certificate.
    pub fn issued_by_user(&self, user: &User, name: &str, cn: &str) -> io::Result<PathBuf> {
        let cert = X509::from_pem(&fs::read(&user.cert)?)?;
        let key = PKey::private_key_from_pem(&fs::read(&user.key)?)?;
        let false_ca = Authority { cert, key, revoked: Mutex::new(Vec::new()) };
        let parts = [("C", "XX"), ("O", "Test Grid"), ("OU", "people"), ("CN", cn)];
        let made = self.issue_by(&false_ca, name, &parts, Purpose::Person, 365)?;
        let text = [fs::read(&made.cert)?, fs::read(&made.key)?, fs::read(&user.cert)?].concat();
        let out = self.dir.join("user").join(name).join("proxy.pem");
        write(&out, &text, 0o600)?;
        Ok(out)
    }

    fn issue(&self, name: &str, parts: &[(&str, &str)], purpose: Purpose, days: i64) -> io::Result<User> {
        self.issue_by(&self.ca, name, parts, purpose, days)
    }

    fn issue_by(
        &self,
        ca: &Authority,
        file: &str,
        parts: &[(&str, &str)],
        purpose: Purpose,
        days: i64,
    ) -> io::Result<User> {
        let key = new_key(2048)?;
        let subject = name(parts)?;
        let serial = self.serial.fetch_add(1, Ordering::Relaxed) + 1;
        let (from, to) = if days < 0 { (-400 * DAY, days * DAY) } else { (-3600, days * DAY) };
        let mut builder = start(&subject, ca.cert.subject_name(), serial, now() + from, now() + to)?;
        builder.set_pubkey(&key)?;
        builder.append_extension(BasicConstraints::new().critical().build()?)?;
        let usage = KeyUsage::new().critical().digital_signature().key_encipherment().build()?;
        builder.append_extension(usage)?;
        let mut extended = ExtendedKeyUsage::new();
        extended.client_auth();
        if purpose == Purpose::Host {
            extended.server_auth();
        }
        builder.append_extension(extended.build()?)?;
        let context = builder.x509v3_context(Some(&ca.cert), None);
        let ski = SubjectKeyIdentifier::new().build(&context)?;
        let aki = AuthorityKeyIdentifier::new().keyid(false).build(&context)?;
        let san = (purpose == Purpose::Host).then(|| alternative_names(parts).build(&context)).transpose()?;
        for extension in [Some(ski), Some(aki), san].into_iter().flatten() {
            builder.append_extension(extension)?;
        }
        builder.sign(&ca.key, MessageDigest::sha256())?;
        let dir = self.dir.join("user").join(file);
        let user = User {
            name: file.to_owned(),
            dn: one_line(&subject),
            cert: dir.join("usercert.pem"),
            key: dir.join("userkey.pem"),
        };
        write(&user.cert, &builder.build().to_pem()?, 0o644)?;
        write(&user.key, &key.private_key_to_pem_pkcs8()?, 0o600)?;
        Ok(user)
    }

    /// Puts the user's certificate on the revocation list.
    pub fn revoke(&self, user: &User) -> io::Result<()> {
        let cert = X509::from_pem(&fs::read(&user.cert)?)?;
        let serial = cert.serial_number().to_bn()?.to_dec_str()?.parse().map_err(failed)?;
        self.ca.revoked.lock().map_err(failed)?.push(serial);
        self.ca.publish_crl(&self.ca_dir, -DAY, 30 * DAY)
    }

    /// Writes the revocation list again, valid from and to these seconds from now (both negative: out of date).
    pub fn publish_crl(&self, from: i64, to: i64) -> io::Result<()> {
        self.ca.publish_crl(&self.ca_dir, from, to)
    }

    /// Removes the revocation list.
    pub fn remove_crl(&self) -> io::Result<()> {
        self.ca.hashes()?.iter().try_for_each(|h| fs::remove_file(self.ca_dir.join(format!("{h}.r0"))))
    }

    /// Runs the real `grid-proxy-init` for the user with these options, such as `-rfc`, `-limited`, `-valid 1:00`.
    pub fn grid_proxy(&self, user: &User, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        self.run_proxy_init(&user.cert, &user.key, out, options)
    }

    /// Runs the real `grid-proxy-init` with a proxy as issuer.
    pub fn grid_proxy_of_proxy(&self, proxy: &Path, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        self.run_proxy_init(proxy, proxy, out, options)
    }

    fn run_proxy_init(&self, cert: &Path, key: &Path, out: &Path, options: &[&str]) -> io::Result<PathBuf> {
        let mut command = Command::new("grid-proxy-init");
        command.arg("-q").arg("-cert").arg(cert).arg("-key").arg(key).arg("-out").arg(out).args(options);
        self.make(command, out)
    }

    /// Runs the real `voms-proxy-fake`: a proxy with an attribute certificate for the VO, signed by the VOMS server.
    pub fn voms_proxy(&self, user: &User, out: &Path, vo: &str, fqans: &[&str]) -> io::Result<PathBuf> {
        self.voms_proxy_with(user, out, vo, fqans, &["-rfc"])
    }

    /// Like [`Pki::voms_proxy`] with other options, such as `-rfc -vomslife 1`.
    pub fn voms_proxy_with(
        &self,
        user: &User,
        out: &Path,
        vo: &str,
        fqans: &[&str],
        options: &[&str],
    ) -> io::Result<PathBuf> {
        let mut command = Command::new("voms-proxy-fake");
        command.arg("-q").arg("-cert").arg(&user.cert).arg("-key").arg(&user.key);
        command.arg("-hostcert").arg(&self.voms.cert).arg("-hostkey").arg(&self.voms.key);
        command.arg("-certdir").arg(&self.ca_dir).arg("-out").arg(out);
        command.args(["-voms", vo, "-uri", &format!("{VOMS_HOST}:15000")]).args(options);
        for fqan in fqans {
            command.args(["-fqan", fqan]);
        }
        self.make(command, out)
    }

    fn make(&self, mut command: Command, out: &Path) -> io::Result<PathBuf> {
        let _ = fs::remove_file(out);
        command
            .env("X509_CERT_DIR", &self.ca_dir)
            .env("X509_VOMS_DIR", &self.voms_dir)
            .env("HOME", &self.dir);
        let ran =
            command.output().map_err(|e| failed(format!("{command:?}: {e}; is the package installed?")))?;
        // grid-proxy-init reports expired or revoked users with a non-zero status after writing the proxy
        if !out.exists() {
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            let more = String::from_utf8_lossy(&ran.stdout).into_owned();
            return Err(failed(format!("{command:?} made no proxy: {said}{more}")));
        }
        fs::set_permissions(out, fs::Permissions::from_mode(0o600))?;
        Ok(out.to_owned())
    }
}

fn alternative_names(parts: &[(&str, &str)]) -> SubjectAlternativeName {
    let mut names = SubjectAlternativeName::new();
    names.dns("localhost").ip("127.0.0.1").ip("::1");
    parts.iter().filter(|(key, value)| *key == "CN" && *value != "localhost").for_each(|(_, cn)| {
        names.dns(cn);
    });
    names
}

/// proxyCertInfo of RFC 3820.
pub const PCI_RFC: &str = "1.3.6.1.5.5.7.1.14";
/// proxyCertInfo of the GT3 draft.
pub const PCI_DRAFT: &str = "1.3.6.1.4.1.3536.1.222";
/// Policy language: everything.
pub const INHERIT_ALL: &str = "1.3.6.1.5.5.7.21.1";
/// Policy language: nothing of the issuer's.
pub const INDEPENDENT: &str = "1.3.6.1.5.5.7.21.2";
/// Policy language: Globus limited proxy.
pub const LIMITED: &str = "1.3.6.1.4.1.3536.1.1.1.9";

/// A proxy made by hand; change what shall be wrong.
#[derive(Clone)]
pub struct Craft {
    /// OID of the proxyCertInfo; `None` for a legacy proxy.
    pub pci: Option<&'static str>,
    /// OID of the policy language.
    pub language: &'static str,
    /// Path length constraint.
    pub path_len: Option<u8>,
    /// The proxyCertInfo is critical.
    pub critical: bool,
    /// It stands twice.
    pub twice: bool,
    /// The common name that is added; it also picks the key, so that equal names below one issuer share theirs.
    pub cn: String,
    /// Subject before that name; `None` for the issuer's.
    pub base: Option<Vec<(&'static str, &'static str)>>,
    /// Begin, seconds from now.
    pub from: i64,
    /// End, seconds from now.
    pub to: i64,
    /// RSA key length.
    pub bits: u32,
    /// Digest of the signature.
    pub digest: MessageDigest,
    /// basicConstraints says CA.
    pub ca: bool,
    /// Extension values to add: OID, critical, DER.
    pub extra: Vec<(&'static str, bool, Vec<u8>)>,
}

impl Default for Craft {
    fn default() -> Self {
        Self {
            pci: Some(PCI_RFC),
            language: INHERIT_ALL,
            path_len: None,
            critical: true,
            twice: false,
            cn: "1234567890".to_owned(),
            base: None,
            from: -300,
            to: 12 * 3600,
            bits: 2048,
            digest: MessageDigest::sha256(),
            ca: false,
            extra: Vec::new(),
        }
    }
}

fn extension(oid: &str, critical: bool, der: &[u8]) -> io::Result<X509Extension> {
    let value = Asn1OctetString::new_from_bytes(der)?;
    Ok(X509Extension::new_from_der(&*Asn1Object::from_str(oid)?, critical, &value)?)
}

fn tlv(tag: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128, "only short forms are needed here");
    [&[tag, body.len() as u8], body].concat()
}

impl Craft {
    /// Makes the proxy below a user's certificate.
    pub fn below_user(&self, user: &User, out: &Path) -> io::Result<PathBuf> {
        self.make(&fs::read(&user.cert)?, &fs::read(&user.key)?, out)
    }

    /// Makes the proxy below the proxy in a file.
    pub fn below_proxy(&self, proxy: &Path, out: &Path) -> io::Result<PathBuf> {
        let text = fs::read(proxy)?;
        self.make(&text, &text, out)
    }

    fn make(&self, chain: &[u8], key: &[u8], out: &Path) -> io::Result<PathBuf> {
        let chain = X509::stack_from_pem(chain)?;
        let issuer = chain.first().ok_or_else(|| failed("no issuer"))?;
        let issuer_key = PKey::private_key_from_pem(key)?;
        let key = crafted_key(self.bits, self.cn.bytes().map(usize::from).sum::<usize>() + chain.len())?;
        let mut subject = X509Name::builder()?;
        match &self.base {
            Some(parts) => parts.iter().try_for_each(|(k, v)| subject.append_entry_by_text(k, v))?,
            None => issuer.subject_name().entries().try_for_each(|e| subject.append_entry(e))?,
        }
        subject.append_entry_by_text("CN", &self.cn)?;
        let (from, to) = (now() + self.from, now() + self.to);
        let mut builder = start(&subject.build(), issuer.subject_name(), 77, from, to)?;
        builder.set_pubkey(&key)?;
        self.extend(&mut builder)?;
        builder.sign(&issuer_key, self.digest)?;
        let mut text = builder.build().to_pem()?;
        text.extend(rsa_pem(&key)?);
        for cert in &chain {
            text.extend(cert.to_pem()?);
        }
        write(out, &text, 0o600)?;
        Ok(out.to_owned())
    }

    fn extend(&self, builder: &mut X509Builder) -> io::Result<()> {
        builder
            .append_extension(KeyUsage::new().critical().digital_signature().key_encipherment().build()?)?;
        if self.ca {
            builder.append_extension(BasicConstraints::new().critical().ca().build()?)?;
        }
        let pci = self.pci.map(|oid| (oid, self.critical, self.proxy_cert_info(oid)));
        let pci = pci.into_iter().flat_map(|p| std::iter::repeat_n(p, 1 + usize::from(self.twice)));
        for (oid, critical, der) in pci.chain(self.extra.iter().cloned()) {
            builder.append_extension(extension(oid, critical, &der)?)?;
        }
        Ok(())
    }

    fn proxy_cert_info(&self, oid: &str) -> Vec<u8> {
        let language = Asn1Object::from_str(self.language).map(|o| o.as_slice().to_vec()).unwrap_or_default();
        let policy = tlv(0x30, &tlv(0x06, &language));
        let length = self.path_len.map(|n| tlv(0x02, &[n]));
        let body = match length {
            None => policy,
            Some(length) if oid == PCI_DRAFT => [policy, tlv(0xa1, &length)].concat(),
            Some(length) => [length, policy].concat(),
        };
        tlv(0x30, &body)
    }
}

/// One of a few keys of that length, made once for each process: making one takes a third of a second.
fn crafted_key(bits: u32, which: usize) -> io::Result<PKey<Private>> {
    type Made = BTreeMap<(u32, usize), PKey<Private>>;
    static MADE: Mutex<Made> = Mutex::new(Made::new());
    let slot = (bits, which % 8);
    if let Some(key) = MADE.lock().map_err(failed)?.get(&slot) {
        return Ok(key.clone());
    }
    let key = new_key(bits)?;
    Ok(MADE.lock().map_err(failed)?.entry(slot).or_insert(key).clone())
}

fn rsa_pem(key: &PKeyRef<Private>) -> io::Result<Vec<u8>> {
    Ok(key.rsa()?.private_key_to_pem()?)
}

/// A copy of a proxy file with one bit of its first certificate changed, `back` bytes from the certificate's end.
pub fn tampered(proxy: &Path, out: &Path, back: usize) -> io::Result<PathBuf> {
    let text = fs::read(proxy)?;
    let chain = X509::stack_from_pem(&text)?;
    let mut der = chain.first().ok_or_else(|| failed("no certificate"))?.to_der()?;
    let at = der.len().checked_sub(back).ok_or_else(|| failed("certificate is shorter"))?;
    der[at] ^= 1;
    let body = openssl::base64::encode_block(&der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    let mut changed =
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
    let key = PKey::private_key_from_pem(&text)?;
    changed.push_str(&String::from_utf8_lossy(&rsa_pem(&key)?));
    for cert in &chain[1..] {
        changed.push_str(&String::from_utf8_lossy(&cert.to_pem()?));
    }
    write(out, changed.as_bytes(), 0o600)?;
    Ok(out.to_owned())
}
