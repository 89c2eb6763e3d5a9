//! Who may call: `user_white_list` of `glexec.conf`, as sites wrote it.

use end_to_end::contract::{GLEXEC, set_conf};
use harness::{Machine, needs};

/// Nobody may call by `policy.toml`; `ops` is a base name with pool accounts.
fn site_without_callers() -> Machine {
    let m = Machine::builder()
        .pilot("pilot")
        .service("ops")
        .service("ops7")
        .service("ops012")
        .service("ops1x")
        .service("opsx1")
        .account("alice")
        .build();
    m.map("Alice", "alice");
    m.edit_policy(|p| p.replace("[\"pilot\"]", "[]"));
    m
}

/// Those who may call under this list.
fn allowed(m: &Machine, list: &str) -> Vec<&'static str> {
    set_conf(m, "user_white_list", list);
    let accounts = ["root", "pilot", "ops", "ops7", "ops012", "ops1x", "opsx1"];
    let may = |account: &str| {
        let run = m.command(GLEXEC).as_user(account).env("GLEXEC_CLIENT_CERT", m.proxy("Alice", account));
        let ran = run.env("GLEXEC_TARGET_PROXY", "/dev/null").arg("/usr/bin/whoami").output();
        match ran.code() {
            Some(0) => {
                assert_eq!(ran.text(), "alice");
                true
            }
            _ => {
                ran.refused(203, &[account, "user_white_list"]);
                false
            }
        }
    };
    accounts.into_iter().filter(|account| may(account)).collect()
}

#[test]
#[needs(root)]
fn names_pools_and_everybody() {
    let m = site_without_callers();
    assert_eq!(allowed(&m, ""), [""; 0], "nobody unless somebody is listed");
    assert_eq!(allowed(&m, "pilot"), ["pilot"]);
    assert_eq!(
        allowed(&m, "root, ops,"),
        ["root", "ops"],
        "root needs listing too, and an empty item is nothing"
    );
    assert_eq!(allowed(&m, ".ops"), ["ops7", "ops012"], "a pool is its base and digits");
    assert_eq!(allowed(&m, "*"), ["root", "pilot", "ops", "ops7", "ops012", "ops1x", "opsx1"]);
}
