//! `-h`, `-v`, `-V`: answers that need neither policy nor credential.

use crate::admit::child::LIBEXEC;
use crate::admit::process_init::Start;
use crate::admit::request::Invocation;
use crate::failure::Failure;
use crate::session::store::RUN_DIR;
use policy::file::POLICY_FILE;
use policy::glexec_conf::GLEXEC_CONF;
use std::io::Write;

const USAGE: &str = "\
Usage: glexec [--] COMMAND [ARGUMENT]...   run COMMAND as the account of the proxy in GLEXEC_CLIENT_CERT
       glexec                              only renew the payload's copy of the proxy
       glexec --session ID --status | --signal NAME | --kill | --end
                                           act on a session that you opened; needs no proxy
       glexec --port-blocks PORT           hand out the host's blocks of ports, for pilots
       glexec -h | -v | -V                 help, version, compiled-in defaults (root)
Environment: GLEXEC_CLIENT_CERT   proxy of the payload's user (mode 0600, owned by the caller)
             GLEXEC_SOURCE_PROXY  proxy to hand over; the same when unset
             GLEXEC_TARGET_PROXY  where the payload finds it; /dev/null: no copy
             GLEXEC_WORK_DIR      directory to make for the payload, removed at the end
Exit codes:  the command's own; 126 it could not be executed; 128+n it died by signal n;
             201 mend your call; 202 the site must mend something; 203 not authorised; 204 it returned 201 to 204
";

/// Answers on standard output; `None` when the invocation is to run something.
pub(crate) fn answer(invocation: &Result<Invocation, String>, start: &Start) -> Result<Option<u8>, Failure> {
    let text = match invocation {
        Ok(Invocation::Help) => USAGE.to_owned(),
        Ok(Invocation::Version) => format!("glexec {} (Pilotage)\n", env!("CARGO_PKG_VERSION")),
        Ok(Invocation::Defaults) if start.caller.uid != 0 => {
            return Err(Failure::caller("-V is for root"));
        }
        Ok(Invocation::Defaults) => format!(
            "GLEXEC_CONFIG_FILE=\"{GLEXEC_CONF}\"\nPILOTAGE_POLICY_FILE=\"{POLICY_FILE}\"\n\
             PILOTAGE_LIBEXEC=\"{LIBEXEC}\"\nGLEXEC_RUN_DIR=\"{RUN_DIR}\"\n"
        ),
        _ => return Ok(None),
    };
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(Some(0))
}
