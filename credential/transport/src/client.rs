//! HTTPS clients that show a proxy and trust the CAs of one directory.

use crate::{Error, read};
use credential::cadir::CaDir;
use credential::pem;
use openssl::pkey::PKey;
use openssl::x509::X509;
use std::path::Path;
use std::time::Duration;

/// Longest wait for a connection, however long the whole request may take.
const CONNECT: Duration = Duration::from_secs(10);
/// Idle connections end before the server ends them, so that no request is sent into a closing one.
const IDLE: Duration = Duration::from_secs(5);

/// An HTTPS client that shows the certificate in `credential`: a proxy file, or a certificate with its key in `key`.
///
/// Servers are trusted if their certificate leads to a CA in `ca_dir` and names the host; neither the system's CAs nor
/// revocation lists are consulted. `timeout` covers each whole request.
///
/// # Errors
/// When a file cannot be read, the key is missing or foreign, or the CA directory holds no CA.
pub fn client(
    credential: &Path,
    key: Option<&Path>,
    ca_dir: &Path,
    timeout: Duration,
) -> Result<reqwest::Client, Error> {
    let credential = read(credential)?;
    let key = key.map(read).transpose()?;
    client_from_pem(&credential, key.as_deref(), ca_dir, timeout)
}

/// Like [`client`], with the PEM text at hand.
pub fn client_from_pem(
    credential: &[u8],
    key: Option<&[u8]>,
    ca_dir: &Path,
    timeout: Duration,
) -> Result<reqwest::Client, Error> {
    let builder = reqwest::Client::builder()
        .use_native_tls()
        .min_tls_version(reqwest::tls::Version::TLS_1_2)
        .tls_built_in_root_certs(false)
        .identity(identity(credential, key)?)
        .connect_timeout(CONNECT.min(timeout))
        .pool_idle_timeout(IDLE)
        .redirect(reqwest::redirect::Policy::none())
        // Whoever wants to know who has answered finds the server's certificate with the answer.
        .tls_info(true)
        .user_agent(concat!("pilotage/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout);
    let with_roots = roots(ca_dir)?.into_iter().fold(builder, |b, root| b.add_root_certificate(root));
    Ok(with_roots.build()?)
}

fn identity(credential: &[u8], key: Option<&[u8]>) -> Result<reqwest::Identity, Error> {
    let chain = pem::certificates(&pem::split_pem(credential)?)?;
    let blocks = pem::split_pem(key.unwrap_or(credential))?;
    let missing =
        || Error::Credential("no private key with the certificate; point to a proxy file".to_owned());
    let block = blocks.iter().find(|b| b.is_private_key()).ok_or_else(missing)?;
    if block.is_encrypted() {
        let what = "the private key is encrypted; make a proxy, whose key has no passphrase";
        return Err(Error::Credential(what.to_owned()));
    }
    let key = PKey::private_key_from_der(&block.der)?;
    let first = chain.first().map(|der| X509::from_der(der)).transpose()?;
    if first.is_some_and(|cert| cert.public_key().is_ok_and(|public| !public.public_eq(&key))) {
        let what = "the private key does not belong to the first certificate: the file mixes two credentials, or its \
                    certificates are in the wrong order; make a new proxy";
        return Err(Error::Credential(what.to_owned()));
    }
    let chain: String = chain.iter().map(|der| pem::encode("CERTIFICATE", der)).collect();
    Ok(reqwest::Identity::from_pkcs8_pem(chain.as_bytes(), &key.private_key_to_pem_pkcs8()?)?)
}

fn roots(ca_dir: &Path) -> Result<Vec<reqwest::Certificate>, Error> {
    let unusable = |refusal: identity::Refusal| Error::CaDirectory(refusal.reason);
    let ders = CaDir::open(ca_dir).and_then(|dir| dir.all()).map_err(unusable)?;
    if ders.is_empty() {
        let what = format!("{}: holds no CA certificate <hash>.0; install the CAs", ca_dir.display());
        return Err(Error::CaDirectory(what));
    }
    ders.iter().map(|der| reqwest::Certificate::from_der(der).map_err(Error::from)).collect()
}
