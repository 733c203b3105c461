//! What an error of TLS means to a person, and what to do about it.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage};

/// What went wrong with TLS on a connection to a server, and what to do; none when it was something else.
pub fn explained(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(meaning(found));
        }
        // An error of I/O names the source of what it holds as its own, and passes over what it holds.
        next = match error.downcast_ref::<io::Error>() {
            Some(outer) => outer.get_ref().map(|inner| inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

fn meaning(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS there: is its address an http:// one?".to_owned()
        }
        // A file of ours that cannot be used.
        rustls::Error::General(text) => text.clone(),
        rustls::Error::AlertReceived(alert) => of_alert(*alert),
        rustls::Error::InvalidCertificate(wrong) => of_certificate(wrong),
        other => format!("TLS failed: {other}"),
    }
}

fn of_alert(alert: AlertDescription) -> String {
    use AlertDescription::{
        AccessDenied, BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked, CertificateUnknown,
        DecryptError, UnknownCA, UnsupportedCertificate,
    };
    match alert {
        CertificateRequired => {
            "it wants a client's certificate (verify_client) and got none: name one with ctl.certfile and \
                                ctl.keyfile, or --cert and --key"
                .to_owned()
        }
        UnknownCA
        | CertificateExpired
        | BadCertificate
        | CertificateUnknown
        | CertificateRevoked
        | AccessDenied
        | UnsupportedCertificate
        | DecryptError => format!(
            "it does not accept our client certificate ({alert:?}): show one that is valid, made for clients, and signed by an \
             authority of its restapi.cafile (ctl.certfile, or --cert)"
        ),
        other => format!("it ended the TLS handshake ({other:?})"),
    }
}

fn of_certificate(wrong: &CertificateError) -> String {
    match wrong {
        // Another authority may have the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is signed by an authority that is not trusted: name that authority \
                                            with ctl.cacert, or --cacert"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it there (restapi.certfile)".to_owned()
        }
        CertificateError::NotValidForName => {
            "its certificate is for other names: make one for the address in its restapi.connect_address".to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is for other names ({}), not for {}: make one for the address in its restapi.connect_address",
            presented.join(", "),
            expected.to_str()
        ),
        // The name stands for it in the error of a crate that is not ours to name.
        CertificateError::Other(inner) if inner.to_string().contains("CaUsedAsEndEntity") => {
            "its certificate is that of an authority: sign one for it with that".to_owned()
        }
        other => format!("its certificate is not accepted: {other}"),
    }
}
