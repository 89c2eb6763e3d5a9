//! Certificates, revocation lists and CA directories of any shape, byte by byte: what no tool would make.
//!
//! | looking for | see |
//! |---|---|
//! | a certificate | [`Certificate`] |
//! | a revocation list | [`List`] |
//! | a key, made once for each process | [`key`] |
//! | a name, an extension, DER | [`dn`], [`dn_of`], [`Extension`], [`tlv`] |
//! | the files of a CA directory | [`Directory`] |

use openssl::asn1::Asn1Object;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The kinds of keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// RSA with so many bits.
    Rsa(u32),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// ECDSA on P-521.
    P521,
    /// ECDSA on a curve that the verifier does not know.
    Brainpool,
    /// Ed25519.
    Ed25519,
}

/// The key of that kind with that number; the same one whenever this process asks.
pub fn key(kind: Kind, number: u32) -> io::Result<PKey<Private>> {
    type Made = BTreeMap<(Kind, u32), PKey<Private>>;
    static MADE: Mutex<Made> = Mutex::new(Made::new());
    let mut made = MADE.lock().map_err(super::failed)?;
    if let Some(key) = made.get(&(kind, number)) {
        return Ok(key.clone());
    }
    let curve = |nid| -> io::Result<PKey<Private>> {
        let group = openssl::ec::EcGroup::from_curve_name(nid)?;
        Ok(PKey::from_ec_key(openssl::ec::EcKey::generate(&group)?)?)
    };
    let key = match kind {
        Kind::Rsa(bits) => PKey::from_rsa(openssl::rsa::Rsa::generate(bits)?)?,
        Kind::P256 => curve(Nid::X9_62_PRIME256V1)?,
        Kind::P384 => curve(Nid::SECP384R1)?,
        Kind::P521 => curve(Nid::SECP521R1)?,
        Kind::Brainpool => curve(Nid::BRAINPOOL_P256R1)?,
        Kind::Ed25519 => PKey::generate_ed25519()?,
    };
    Ok(made.entry((kind, number)).or_insert(key).clone())
}

/// One DER element.
pub fn tlv(tag: u8, body: &[u8]) -> Vec<u8> {
    let size = body.len().to_be_bytes();
    let first = size.iter().position(|b| *b != 0).unwrap_or(size.len() - 1);
    let mut out = vec![tag];
    if body.len() >= 0x80 {
        out.push(0x80 | (size.len() - first) as u8);
    }
    out.extend_from_slice(&size[first..]);
    out.extend_from_slice(body);
    out
}

/// An OBJECT IDENTIFIER from its dotted form.
pub fn oid(dotted: &str) -> Vec<u8> {
    let object = Asn1Object::from_str(dotted).map(|o| o.as_slice().to_vec());
    tlv(0x06, &object.unwrap_or_default())
}

/// UTF8String.
pub const UTF8: u8 = 0x0c;
/// T61String, in practice Latin-1.
pub const T61: u8 = 0x14;
/// BMPString, UTF-16.
pub const BMP: u8 = 0x1e;

/// A name from types (short name or dotted OID) and UTF-8 values, one component each; `emailAddress` is an IA5String.
pub fn dn(parts: &[(&str, &str)]) -> Vec<u8> {
    let tag = |kind: &str| if matches!(kind, "emailAddress" | "DC") { 0x16 } else { UTF8 };
    let parts: Vec<_> = parts.iter().map(|(kind, text)| (*kind, tag(kind), text.as_bytes())).collect();
    dn_of(&parts)
}

/// A name from types, string types and contents octets.
pub fn dn_of(parts: &[(&str, u8, &[u8])]) -> Vec<u8> {
    let component = |(kind, tag, value): &(&str, u8, &[u8])| {
        tlv(0x31, &tlv(0x30, &[oid(long_name(kind)), tlv(*tag, value)].concat()))
    };
    tlv(0x30, &parts.iter().flat_map(component).collect::<Vec<u8>>())
}

fn long_name(kind: &str) -> &str {
    match kind {
        "C" => "2.5.4.6",
        "O" => "2.5.4.10",
        "OU" => "2.5.4.11",
        "CN" => "2.5.4.3",
        "L" => "2.5.4.7",
        "DC" => "0.9.2342.19200300.100.1.25",
        "UID" => "0.9.2342.19200300.100.1.1",
        "emailAddress" => "1.2.840.113549.1.9.1",
        dotted => dotted,
    }
}

/// A name with one common name more, as a proxy has it.
pub fn below(name: &[u8], cn: &str) -> Vec<u8> {
    let last = dn(&[("CN", cn)]);
    tlv(0x30, &[body(name), body(&last)].concat())
}

/// The contents octets of a DER element.
pub fn body(element: &[u8]) -> &[u8] {
    match element.get(1) {
        Some(long) if *long >= 0x80 => &element[2 + usize::from(long & 0x7f)..],
        _ => element.get(2..).unwrap_or_default(),
    }
}

/// An extension: OID, critical, value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension(pub &'static str, pub bool, pub Vec<u8>);

impl Extension {
    /// basicConstraints.
    pub fn basic(ca: bool, path_len: Option<u8>) -> Self {
        let flag = if ca { tlv(1, &[0xff]) } else { Vec::new() };
        let length = path_len.map(|n| tlv(2, &[n])).unwrap_or_default();
        Self("2.5.29.19", true, tlv(0x30, &[flag, length].concat()))
    }

    /// keyUsage from the first octet of its bits: 0x80 digitalSignature, 0x20 keyEncipherment, 0x04 keyCertSign, 0x02 cRLSign.
    pub fn usage(bits: u8) -> Self {
        Self("2.5.29.15", true, tlv(3, &[0, bits]))
    }

    /// extKeyUsage.
    pub fn extended(purposes: &[&str]) -> Self {
        Self("2.5.29.37", false, tlv(0x30, &purposes.iter().flat_map(|p| oid(p)).collect::<Vec<u8>>()))
    }

    /// subjectAltName from encoded general names.
    pub fn alternative(names: &[Vec<u8>]) -> Self {
        Self("2.5.29.17", false, tlv(0x30, &names.concat()))
    }

    /// nameConstraints from encoded general names.
    pub fn constraints(permitted: &[Vec<u8>], excluded: &[Vec<u8>]) -> Self {
        let trees = |tag, names: &[Vec<u8>]| match names {
            [] => Vec::new(),
            names => tlv(tag, &names.iter().flat_map(|n| tlv(0x30, n)).collect::<Vec<u8>>()),
        };
        let value = [trees(0xa0, permitted), trees(0xa1, excluded)].concat();
        Self("2.5.29.30", true, tlv(0x30, &value))
    }

    /// cRLDistributionPoints with one point of one URI.
    pub fn point(uri: &str) -> Self {
        let name = tlv(0xa0, &tlv(0xa0, &tlv(0x86, uri.as_bytes())));
        Self("2.5.29.31", false, tlv(0x30, &tlv(0x30, &name)))
    }

    /// issuingDistributionPoint of a revocation list; `flags` are encoded fields behind the point.
    pub fn issuing_point(uri: Option<&str>, flags: &[u8]) -> Self {
        let name = uri.map(|u| tlv(0xa0, &tlv(0xa0, &tlv(0x86, u.as_bytes())))).unwrap_or_default();
        Self("2.5.29.28", true, tlv(0x30, &[&name, flags].concat()))
    }

    /// proxyCertInfo of RFC 3820 or the GT3 draft, by its OID.
    pub fn proxy(pci: &'static str, language: &str, path_len: Option<u8>) -> Self {
        let policy = tlv(0x30, &oid(language));
        let length = path_len.map(|n| tlv(2, &[n]));
        let value = match length {
            None => policy,
            Some(length) if pci == super::PCI_DRAFT => [policy, tlv(0xa1, &length)].concat(),
            Some(length) => [length, policy].concat(),
        };
        Self(pci, true, tlv(0x30, &value))
    }

    fn der(&self) -> Vec<u8> {
        let critical = if self.1 { tlv(1, &[0xff]) } else { Vec::new() };
        tlv(0x30, &[oid(self.0), critical, tlv(4, &self.2)].concat())
    }
}

/// How something is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// PKCS#1 or ECDSA with that many bits of SHA-2; Edwards curves ignore the number.
    Sha2(u16),
    /// PKCS#1 or ECDSA with SHA-1.
    Sha1,
    /// PKCS#1 with MD5.
    Md5,
    /// RSA-PSS with that many bits of SHA-2, and a salt as long.
    Pss(u16),
}

fn digest(bits: u16) -> MessageDigest {
    match bits {
        512 => MessageDigest::sha512(),
        384 => MessageDigest::sha384(),
        _ => MessageDigest::sha256(),
    }
}

impl Sign {
    fn algorithm(self, key: &PKey<Private>) -> Vec<u8> {
        let null = tlv(5, &[]);
        let rsa = key.id() == Id::RSA;
        let number = |bits: u16| bits / 128;
        match self {
            _ if key.id() == Id::ED25519 => tlv(0x30, &oid("1.3.101.112")),
            _ if key.id() == Id::ED448 => tlv(0x30, &oid("1.3.101.113")),
            Sign::Sha2(bits) if rsa => {
                let last = number(bits) + 9;
                tlv(0x30, &[oid(&format!("1.2.840.113549.1.1.{last}")), null].concat())
            }
            Sign::Sha2(bits) => tlv(0x30, &oid(&format!("1.2.840.10045.4.3.{}", number(bits)))),
            Sign::Sha1 if rsa => tlv(0x30, &[oid("1.2.840.113549.1.1.5"), null].concat()),
            Sign::Sha1 => tlv(0x30, &oid("1.2.840.10045.4.1")),
            Sign::Md5 => tlv(0x30, &[oid("1.2.840.113549.1.1.4"), null].concat()),
            Sign::Pss(bits) => {
                let hash =
                    tlv(0x30, &[oid(&format!("2.16.840.1.101.3.4.2.{}", number(bits) - 1)), null].concat());
                let mask = tlv(0x30, &[oid("1.2.840.113549.1.1.8"), hash.clone()].concat());
                let salt = tlv(2, &[(bits / 8) as u8]);
                let parameters = [tlv(0xa0, &hash), tlv(0xa1, &mask), tlv(0xa2, &salt)].concat();
                tlv(0x30, &[oid("1.2.840.113549.1.1.10"), tlv(0x30, &parameters)].concat())
            }
        }
    }

    fn sign(self, key: &PKey<Private>, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut signer = match self {
            _ if matches!(key.id(), Id::ED25519 | Id::ED448) => Signer::new_without_digest(key)?,
            Sign::Sha2(bits) | Sign::Pss(bits) => Signer::new(digest(bits), key)?,
            Sign::Sha1 => Signer::new(MessageDigest::sha1(), key)?,
            Sign::Md5 => Signer::new(MessageDigest::md5(), key)?,
        };
        if let Sign::Pss(bits) = self {
            signer.set_rsa_padding(Padding::PKCS1_PSS)?;
            signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
            signer.set_rsa_mgf1_md(digest(bits))?;
        }
        Ok(signer.sign_oneshot_to_vec(bytes)?)
    }

    /// SEQUENCE of the contents, the algorithm and the signature.
    fn seal(self, key: &PKey<Private>, contents: &[u8]) -> io::Result<Vec<u8>> {
        let signature = [vec![0], self.sign(key, contents)?].concat();
        Ok(tlv(0x30, &[contents.to_vec(), self.algorithm(key), tlv(3, &signature)].concat()))
    }
}

/// A point in time, seconds from now, as UTCTime or (from 2050 on) GeneralizedTime.
pub fn time(from_now: i64) -> Vec<u8> {
    let at = super::now() + from_now;
    let (days, rest) = (at.div_euclid(86_400), at.rem_euclid(86_400));
    // from days to a date, counting years from March (Howard Hinnant's algorithm)
    let z = days + 719_468;
    let (era, doe) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (day, month) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let year = yoe + era * 400 + i64::from(month <= 2);
    let clock = format!("{month:02}{day:02}{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60);
    match year {
        1950..2050 => tlv(0x17, format!("{:02}{clock}", year % 100).as_bytes()),
        _ => tlv(0x18, format!("{year:04}{clock}").as_bytes()),
    }
}

/// A certificate to be made; change what shall be wrong.
#[derive(Clone)]
pub struct Certificate {
    /// 2 means version 3; `None` leaves the field and the extensions out, as version 1 has it.
    pub version: Option<u8>,
    /// Contents octets.
    pub serial: Vec<u8>,
    /// DER.
    pub issuer: Vec<u8>,
    /// DER.
    pub subject: Vec<u8>,
    /// Begin, seconds from now.
    pub from: i64,
    /// End, seconds from now.
    pub to: i64,
    /// Whose certificate it is.
    pub key: PKey<Private>,
    /// In this order.
    pub extensions: Vec<Extension>,
    /// How it is signed.
    pub sign: Sign,
}

impl Certificate {
    /// A CA's.
    pub fn ca(subject: &[u8], issuer: &[u8], key: &PKey<Private>) -> Self {
        let extensions = vec![Extension::basic(true, None), Extension::usage(0x06)];
        Self::new(subject, issuer, key, 365 * super::DAY, extensions)
    }

    /// A person's.
    pub fn person(subject: &[u8], issuer: &[u8], key: &PKey<Private>) -> Self {
        let extensions = vec![Extension::basic(false, None), Extension::usage(0xa0)];
        Self::new(subject, issuer, key, 30 * super::DAY, extensions)
    }

    /// A full RFC 3820 proxy of the issuer's.
    pub fn proxy(issuer: &[u8], cn: &str, key: &PKey<Private>) -> Self {
        let info = Extension::proxy(super::PCI_RFC, super::INHERIT_ALL, None);
        let extensions = vec![Extension::usage(0xa0), info];
        Self::new(&below(issuer, cn), issuer, key, 12 * 3600, extensions)
    }

    fn new(subject: &[u8], issuer: &[u8], key: &PKey<Private>, to: i64, extensions: Vec<Extension>) -> Self {
        let (issuer, subject, key) = (issuer.to_vec(), subject.to_vec(), key.clone());
        let serial = vec![0x10, 0x01];
        Self {
            version: Some(2),
            serial,
            issuer,
            subject,
            from: -300,
            to,
            key,
            extensions,
            sign: Sign::Sha2(256),
        }
    }

    /// With that serial number.
    pub fn serial(mut self, serial: &[u8]) -> Self {
        self.serial = serial.to_vec();
        self
    }

    /// With that extension in place of the one of the same type, or added.
    pub fn with(mut self, extension: Extension) -> Self {
        self.extensions.retain(|e| e.0 != extension.0);
        self.extensions.push(extension);
        self
    }

    /// Without that extension.
    pub fn without(mut self, oid: &str) -> Self {
        self.extensions.retain(|e| e.0 != oid);
        self
    }

    /// Valid from and to so many seconds from now.
    pub fn valid(mut self, from: i64, to: i64) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    /// Signed like that.
    pub fn signed(mut self, sign: Sign) -> Self {
        self.sign = sign;
        self
    }

    /// As version 1: without version and extensions.
    pub fn version_1(mut self) -> Self {
        self.version = None;
        self.extensions.clear();
        self
    }

    /// The DER, signed with the issuer's key.
    pub fn der(&self, issuer: &PKey<Private>) -> io::Result<Vec<u8>> {
        let version = self.version.map(|v| tlv(0xa0, &tlv(2, &[v]))).unwrap_or_default();
        let validity = tlv(0x30, &[time(self.from), time(self.to)].concat());
        let extensions: Vec<u8> = self.extensions.iter().flat_map(Extension::der).collect();
        let extensions = match extensions.as_slice() {
            [] => Vec::new(),
            list => tlv(0xa3, &tlv(0x30, list)),
        };
        let contents = [
            version,
            tlv(2, &self.serial),
            self.sign.algorithm(issuer),
            self.issuer.clone(),
            validity,
            self.subject.clone(),
            self.key.public_key_to_der()?,
            extensions,
        ];
        self.sign.seal(issuer, &tlv(0x30, &contents.concat()))
    }
}

/// A revocation list to be made.
#[derive(Clone)]
pub struct List {
    /// DER.
    pub issuer: Vec<u8>,
    /// thisUpdate, seconds from now.
    pub from: i64,
    /// nextUpdate, seconds from now.
    pub to: Option<i64>,
    /// Serial numbers (contents octets), each with its extensions.
    pub entries: Vec<(Vec<u8>, Vec<Extension>)>,
    /// Of the list.
    pub extensions: Vec<Extension>,
    /// How it is signed.
    pub sign: Sign,
}

impl List {
    /// A complete one that revokes nobody.
    pub fn new(issuer: &[u8]) -> Self {
        let (entries, extensions) = (Vec::new(), Vec::new());
        Self {
            issuer: issuer.to_vec(),
            from: -3600,
            to: Some(86_400),
            entries,
            extensions,
            sign: Sign::Sha2(256),
        }
    }

    /// One that revokes this serial number too.
    pub fn revoking(mut self, serial: &[u8]) -> Self {
        self.entries.push((serial.to_vec(), Vec::new()));
        self
    }

    /// With that extension.
    pub fn with(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    /// The DER, signed with the CA's key.
    pub fn der(&self, ca: &PKey<Private>) -> io::Result<Vec<u8>> {
        let list = |extensions: &[Extension]| {
            tlv(0x30, &extensions.iter().flat_map(Extension::der).collect::<Vec<_>>())
        };
        let date = time(-7200);
        let entry = |(serial, extensions): &(Vec<u8>, Vec<Extension>)| {
            let extensions = if extensions.is_empty() { Vec::new() } else { list(extensions) };
            tlv(0x30, &[tlv(2, serial), date.clone(), extensions].concat())
        };
        let entries: Vec<u8> = self.entries.iter().flat_map(entry).collect();
        let contents = [
            tlv(2, &[1]),
            self.sign.algorithm(ca),
            self.issuer.clone(),
            time(self.from),
            self.to.map(time).unwrap_or_default(),
            if entries.is_empty() { Vec::new() } else { tlv(0x30, &entries) },
            if self.extensions.is_empty() { Vec::new() } else { tlv(0xa0, &list(&self.extensions)) },
        ];
        self.sign.seal(ca, &tlv(0x30, &contents.concat()))
    }
}

/// PEM text of DER.
pub fn pem(label: &str, der: &[u8]) -> String {
    let body = openssl::base64::encode_block(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A credential as a proxy file: leaf, its key, the rest.
pub fn credential(chain: &[Vec<u8>], key: &PKey<Private>) -> io::Result<String> {
    let certs: Vec<String> = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    let key = match key.rsa() {
        Ok(rsa) => rsa.private_key_to_pem()?,
        Err(_) => key.private_key_to_pem_pkcs8()?,
    };
    Ok(format!("{}{}{}", certs[0], String::from_utf8_lossy(&key), certs[1..].concat()))
}

/// A CA directory, under today's hashes.
#[derive(Debug, Clone)]
pub struct Directory(PathBuf);

impl Directory {
    /// A new one, which only its owner may write.
    pub fn new(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        Ok(Self(path.to_owned()))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The file of the CA with that name (DER), such as `.0`, `.r0` or `.signing_policy`.
    pub fn file(&self, name: &[u8], ending: &str) -> PathBuf {
        let hash = openssl::x509::X509Name::from_der(name).and_then(|name| {
            let mut carrier = openssl::x509::X509::builder()?;
            carrier.set_subject_name(&name)?;
            Ok(carrier.build().subject_name_hash())
        });
        self.0.join(format!("{:08x}{ending}", hash.unwrap_or_default()))
    }

    /// Writes such a file.
    pub fn put(&self, name: &[u8], ending: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.file(name, ending);
        super::write(&path, bytes, 0o644)?;
        Ok(path)
    }

    /// Installs a CA that may sign everything, as `.0`.
    pub fn trust(&self, name: &[u8], der: &[u8]) -> io::Result<()> {
        self.put(name, ".0", pem("CERTIFICATE", der).as_bytes())?;
        let policy = "access_id_ANYBODY\npos_rights globus CA:sign\ncond_subjects globus '\"*\"'\n";
        self.put(name, ".signing_policy", policy.as_bytes()).map(drop)
    }

    /// Installs a revocation list, as `.r0`.
    pub fn revoke(&self, name: &[u8], der: &[u8]) -> io::Result<PathBuf> {
        self.put(name, ".r0", pem("X509 CRL", der).as_bytes())
    }
}
