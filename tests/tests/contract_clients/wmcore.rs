//! WMCore and CRAB: submits to HTCondor as the user, with a copy of the proxy where the job description wants it.

use crate::{directory, pilot_script};
use end_to_end::contract::{GLEXEC, site};
use harness::needs;
use std::fs;
use std::os::unix::fs::MetadataExt;

#[test]
#[needs(root)]
fn submission_as_the_user_with_and_without_wrapping() {
    let m = site();
    directory(&m, "/srv/submit", "pilot", 0o1777);
    let condor_submit = "#!/bin/sh\ntest -r \"$X509_USER_PROXY\" || exit 8\n\
                         echo \"1 job(s) submitted to cluster 42 by $(id -un) from ${CONDOR_CONFIG:-nowhere}.\"\n";
    m.write("/opt/condor/bin/condor_submit", "root", 0o755, condor_submit);
    m.write("/srv/submit/job.jdl", "pilot", 0o644, "x509userproxy = /srv/submit/jdl_proxy\nqueue\n");
    let users = m.proxy("Alice", "pilot");
    let prepare = format!(
        "cp {users} /home/pilot/local_proxy; chmod 600 /home/pilot/local_proxy; PATH=/opt/condor/bin:$PATH; \
         export GLEXEC_CLIENT_CERT=/home/pilot/local_proxy GLEXEC_SOURCE_PROXY=/home/pilot/local_proxy; \
         export X509_USER_PROXY=/home/pilot/local_proxy GLEXEC_TARGET_PROXY=/srv/submit/jdl_proxy; \
         CS=`which condor_submit`; "
    );
    let wrapped = format!(
        "export CONDOR_CONFIG=/etc/condor/config; export GLEXEC_ENV=`/usr/sbin/glexec_wrapenv.pl 2>/dev/null`; \
         {GLEXEC} /usr/sbin/glexec_unwrapenv.pl -- $CS /srv/submit/job.jdl"
    );
    let bare = format!("{GLEXEC} $CS /srv/submit/job.jdl");
    for (submit, config) in [(wrapped, "/etc/condor/config"), (bare, "nowhere")] {
        // It used to filter a remark of Globus out of the errors; there is nothing to filter.
        let ran = pilot_script(&m, &format!("{prepare}{submit}")).output();
        assert_eq!(ran.ok(), format!("1 job(s) submitted to cluster 42 by alice from {config}."));
        assert_eq!(ran.errors(), "");
        let copy = fs::metadata("/srv/submit/jdl_proxy").unwrap();
        assert_eq!((copy.uid(), copy.mode() & 0o777), (m.uid("alice"), 0o600));
    }
}
