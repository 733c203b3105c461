//! TLS of the REST API, with Patroni's keys.

use super::*;

/// The good file with this in its section `restapi`, and after it.
fn with(restapi: &str, rest: &str) -> String {
    GOOD.replace("restapi:\n", &format!("restapi:\n{restapi}")).replace("tags:", &format!("{rest}tags:"))
}

#[test]
fn it_is_read_with_patronis_keys_and_from_the_environment() {
    let plain = load(GOOD, &[]).unwrap();
    assert_eq!(
        (plain.restapi.url().as_str(), plain.restapi.verify_client),
        ("http://127.0.0.1:8008", VerifyClient::None)
    );
    assert_eq!(plain.ctl, Ctl { cacert: None, certfile: None, keyfile: None, insecure: false });

    let text = with(
        "  certfile: /c.pem\n  keyfile: /k.pem\n  cafile: /ca.pem\n  verify_client: optional\n",
        "ctl: {cacert: /ca2.pem, certfile: /c2.pem, insecure: on}\n",
    );
    let config = load(&text, &[("MATRIARCH_RESTAPI_VERIFY_CLIENT", "required"), ("MATRIARCH_CTL_KEYFILE", "/k2.pem")]);
    let config = config.unwrap();
    assert_eq!(config.restapi.url(), "https://127.0.0.1:8008");
    assert_eq!((config.restapi.keyfile, config.restapi.verify_client), (Some("/k.pem".into()), VerifyClient::Required));
    let path = |text: &str| Some(PathBuf::from(text));
    let ctl = Ctl { cacert: path("/ca2.pem"), certfile: path("/c2.pem"), keyfile: path("/k2.pem"), insecure: true };
    assert_eq!(config.ctl, ctl);
}

#[test]
fn what_does_not_go_together_is_told() {
    for (restapi, rest, wanted) in [
        ("  cafile: /ca\n", "", "restapi.cafile: there is no `certfile`, so the API speaks plain HTTP; add the API's"),
        ("  keyfile: /k\n", "", "restapi.keyfile: there is no `certfile`"),
        ("  verify_client: required\n", "", "restapi.verify_client: there is no `certfile`"),
        (
            "  certfile: /c\n  verify_client: optional\n",
            "",
            "restapi.cafile: required by `verify_client: optional`; add",
        ),
        ("  certfile: /c\n  verify_client: maybe\n", "", "restapi.verify_client: "),
        ("  certfile: c.pem\n", "", "restapi.certfile: 'c.pem' is not a path"),
        ("  certfile: /data/db1/c.pem\n", "", "restapi.certfile: it lies in the data directory"),
        (
            "  certfile: /c\n  keyfile_password: x\n",
            "",
            "restapi.keyfile_password: keys with a password are not supported",
        ),
        ("  certfile: /c\n  ciphers: ALL\n", "", "restapi.ciphers: "),
        ("", "ctl: {keyfile: /k}\n", "ctl.keyfile: there is no `certfile`; add the client certificate, or remove it"),
        ("", "ctl: {authentication: {username: u}}\n", "ctl.authentication: what is sent is what `restapi` says"),
    ] {
        let said = error(with(restapi, rest));
        assert!(said.contains(wanted), "{restapi}{rest}: {said}");
    }
    assert!(load(with("  verify_client: none\n", ""), &[]).is_ok(), "what changes nothing is no mistake");
}
