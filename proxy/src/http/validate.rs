//! Checks that every version of HTTP shares: what may stand in a name, a value, an authority.

/// Whether a byte may stand in a method or a field name. //= rfc9110#5.6.2
pub(crate) fn is_token(b: u8) -> bool {
    CLASS[usize::from(b)] & TOKEN != 0
}

/// Whether a byte may stand in a field value. //= rfc9110#5.5
pub(crate) fn is_value(b: u8) -> bool {
    (b >= b' ' && b != 0x7f) || b == b'\t'
}

/// Control characters that no part of a head may hold.
//= envoy: http1.invalid_characters
pub(crate) fn is_forbidden(b: u8) -> bool {
    (b < b' ' && !matches!(b, b'\t' | b'\r' | b'\n')) || b == 0x7f
}

/// Whether this may be the value of `Host`. Lenient as Envoy: a port of letters passes.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| CLASS[usize::from(b)] & AUTHORITY != 0)
}

/// `host:port` or `host` as in a URL: a name or an address of version 6 in brackets, and a port below 65,536.
/// The answer is whether a port is there; `None`: it is not valid.
pub(crate) fn host_and_port(bytes: &[u8]) -> Option<bool> {
    let (host, rest) = if bytes.first() == Some(&b'[') {
        let end = memchr::memchr(b']', bytes)?;
        let address = &bytes[1..end];
        if !address.contains(&b':')
            || !address.iter().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'))
        {
            return None;
        }
        (address, &bytes[end + 1..])
    } else {
        let end = memchr::memchr(b':', bytes).unwrap_or(bytes.len());
        let name = &bytes[..end];
        if !name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
            return None;
        }
        (name, &bytes[end..])
    };
    if host.is_empty() {
        return None;
    }
    let Some((b':', port)) = rest.split_first() else { return rest.is_empty().then_some(false) };
    let number = port.iter().try_fold(0u32, |n, d| {
        d.is_ascii_digit().then(|| n * 10 + u32::from(d - b'0')).filter(|n| *n <= 65_535)
    })?;
    (!port.is_empty() && number <= 65_535).then_some(true)
}

/// Whether this may stand before the `@` of a URL's authority.
pub(crate) fn is_user_info(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b.is_ascii_alphanumeric() || b"-_.!~*'();:&=+$,%".contains(&b))
}

const TOKEN: u8 = 1;
const AUTHORITY: u8 = 2;

static CLASS: [u8; 256] = {
    const TOKENS: &[u8] = b"!#$%&'*+-.^_`|~";
    // envoy: observed on 1.40.0
    const AUTHORITIES: &[u8] = b"!$%&'()*+,-.:;=@[]_~";
    let mut table = [0; 256];
    let mut b = 0;
    while b < 128u8 {
        if b.is_ascii_alphanumeric() {
            table[b as usize] = TOKEN | AUTHORITY;
        }
        b += 1;
    }
    let mut i = 0;
    while i < TOKENS.len() {
        table[TOKENS[i] as usize] |= TOKEN;
        i += 1;
    }
    i = 0;
    while i < AUTHORITIES.len() {
        table[AUTHORITIES[i] as usize] |= AUTHORITY;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for (text, expected) in [
            ("a", Some(false)),
            ("a:80", Some(true)),
            ("a:00080", Some(true)),
            ("a:65535", Some(true)),
            ("[::1]", Some(false)),
            ("[::1]:0", Some(true)),
            ("-a..b.", Some(false)),
            ("", None),
            (":80", None),
            ("a:", None),
            ("a:x", None),
            ("a:65536", None),
            ("a:99999999999999999999", None),
            ("a_b", None),
            ("u@h:80", None),
            ("[::1", None),
            ("[]:80", None),
            ("[::1]80", None),
        ] {
            assert_eq!(host_and_port(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn characters() {
        let all = |fits: fn(u8) -> bool| -> String {
            (0..=255u8).filter(|b| fits(*b)).map(char::from).filter(|c| !c.is_ascii_alphanumeric()).collect()
        };
        assert_eq!(all(is_token), "!#$%&'*+-.^_`|~");
        assert_eq!(all(|b| is_authority(&[b])), "!$%&'()*+,-.:;=@[]_~");
        assert!(is_value(b'\t') && is_value(0xff) && !is_value(0x7f) && !is_value(b'\r'));
    }
}
