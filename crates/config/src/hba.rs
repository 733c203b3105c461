//! Lines of `pg_hba.conf` and `pg_ident.conf`: enough of a look to catch what would stop PostgreSQL from reloading.

/// Accepts a line of `pg_hba.conf`. Messages never quote the line: it may hold an LDAP password.
pub(crate) fn hba_line(line: &str) -> Result<(), String> {
    let Some(words) = words(line)? else { return Ok(()) };
    let first = words.first().map(String::as_str).unwrap_or_default();
    let (fields, has_address) = match first {
        "local" => (4, false),
        "host" | "hostssl" | "hostnossl" | "hostgssenc" | "hostnogssenc" => (5, true),
        "include" | "include_if_exists" | "include_dir" => {
            return if words.len() == 2 { Ok(()) } else { Err(format!("'{first}' takes one file name")) };
        }
        _ => {
            return Err(
                "it must begin with local, host, hostssl, hostnossl, hostgssenc, hostnogssenc or include".into()
            );
        }
    };
    let shape = if has_address { "TYPE DATABASE USER ADDRESS METHOD" } else { "local DATABASE USER METHOD" };
    if words.len() < fields {
        return Err(format!("it has {} fields, expected {shape}", words.len()));
    }
    // An address may be followed by its netmask as a field of its own.
    let netmask = has_address && words.get(4).is_some_and(|word| word.parse::<std::net::IpAddr>().is_ok());
    let method = words.get(fields - 1 + usize::from(netmask)).map(String::as_str).unwrap_or_default();
    const METHODS: &[&str] = &[
        "trust",
        "reject",
        "scram-sha-256",
        "md5",
        "password",
        "gss",
        "sspi",
        "ident",
        "peer",
        "ldap",
        "radius",
        "cert",
        "pam",
        "bsd",
        "oauth",
    ];
    if METHODS.contains(&method) { Ok(()) } else { Err(format!("the method must be one of {}", METHODS.join(", "))) }
}

/// Accepts a line of `pg_ident.conf`.
pub(crate) fn ident_line(line: &str) -> Result<(), String> {
    match words(line)? {
        None => Ok(()),
        Some(words) if words.len() == 3 || words.first().is_some_and(|word| word.starts_with("include")) => Ok(()),
        Some(words) => Err(format!("it has {} fields, expected MAP SYSTEM-USER DATABASE-USER", words.len())),
    }
}

/// The fields of a line, quotes kept together; none when it is empty or a comment.
fn words(line: &str) -> Result<Option<Vec<String>>, String> {
    if line.chars().any(|c| c.is_control() && c != '\t') {
        return Err("it has a line break or another control character; write one rule for each list item".into());
    }
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in line.chars() {
        match c {
            '"' => {
                quoted = !quoted;
                word.push(c);
            }
            '#' if !quoted => break,
            c if c.is_whitespace() && !quoted => {
                words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty()))
            }
            c => word.push(c),
        }
    }
    if quoted {
        return Err("a quote is not closed".into());
    }
    words.extend(Some(word).filter(|w| !w.is_empty()));
    Ok(if words.is_empty() { None } else { Some(words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_what_postgresql_accepts() {
        for line in [
            "local all all trust",
            "# a comment",
            "",
            "host all all 10.0.0.0/8 scram-sha-256",
            "host\tall\tall\t10.0.0.0\t255.0.0.0\tmd5 # old",
            "hostssl \"my db\" +group .example.com cert clientcert=verify-full map=m",
            "include extra.conf",
            "host all all samenet ldap ldapserver=x ldapbindpasswd=\"a b\"",
        ] {
            assert_eq!(hba_line(line), Ok(()), "{line}");
        }
        assert_eq!(ident_line("m os db"), Ok(()));
        assert_eq!(ident_line("m \"/^(.*)@x$\" \\1"), Ok(()));
    }

    #[test]
    fn refuses_what_it_would_not_load() {
        for (line, why) in [
            ("host all all trust", "it has 4 fields, expected TYPE DATABASE USER ADDRESS METHOD"),
            ("local all all", "it has 3 fields, expected local DATABASE USER METHOD"),
            (
                "hosts all all all trust",
                "it must begin with local, host, hostssl, hostnossl, hostgssenc, hostnogssenc or include",
            ),
            ("local \"all all trust", "a quote is not closed"),
            ("include", "'include' takes one file name"),
        ] {
            assert_eq!(hba_line(line), Err(why.to_owned()), "{line}");
        }
        assert!(hba_line("local all all trusted").unwrap_err().starts_with("the method must be one of"));
        assert!(hba_line("local all all trust\nhost all all all trust").unwrap_err().contains("line break"));
        assert!(ident_line("m os").is_err());
    }
}
