//! What is said about a connection that failed, and what to do.

use std::error::Error;

/// The causes of an error below the first, which only repeats the URL: each once, as one line.
pub(super) fn reasons(error: &reqwest::Error) -> String {
    let mut causes: Vec<String> = Vec::new();
    let mut next: Option<&dyn Error> = error.source();
    while let Some(cause) = next {
        let text = cause.to_string().replace(['\n', '\r'], " ");
        // A cause often repeats what is below it, and says more: the reason why a certificate is refused stands only there.
        if !causes.iter().any(|earlier| earlier.contains(&text)) {
            causes.retain(|earlier| !text.contains(earlier.as_str()));
            causes.push(text);
        }
        next = cause.source();
    }
    let text = if causes.is_empty() { error.to_string() } else { causes.join(": ") };
    if error.is_timeout() { format!("no answer in time ({text})") } else { text }
}

/// What to do about a connection that failed: the words of OpenSSL and of the system, and their usual cause.
pub(super) fn remedy(reason: &str) -> &'static str {
    const REMEDIES: [(&[&str], &str); 8] = [
        (
            &["hostname mismatch", "ip address mismatch", "hostname verification"],
            "its certificate is for another host: use the name that the certificate has",
        ),
        (
            &["certificate has expired"],
            "its certificate, or that of its CA, has expired: tell the queue's operator, and update the CA directory",
        ),
        (&["certificate is not yet valid"], "its certificate is not valid yet: check this host's clock"),
        (
            &["unable to get", "self-signed", "self signed", "certificate verify failed", "unable to verify"],
            "its certificate is not from a CA in the CA directory: check --ca-dir or X509_CERT_DIR",
        ),
        (
            &["wrong version number", "packet length too long", "http request", "unknown protocol"],
            "no TLS is spoken on this port: check --queue or PILOT_QUEUE",
        ),
        (&["alert"], "the queue, or something before it, ended the TLS handshake: its log says why"),
        (
            &["dns error", "lookup address", "name or service not known", "failed to resolve"],
            "the host name cannot be found: check --queue or PILOT_QUEUE",
        ),
        (&["no answer in time", "timed out"], "a firewall may be in between, or the queue is overloaded"),
    ];
    let reason = reason.to_lowercase();
    let known = REMEDIES.iter().find(|(words, _)| words.iter().any(|word| reason.contains(word)));
    known.map_or("check --queue or PILOT_QUEUE, and that the queue runs", |(_, remedy)| remedy)
}
