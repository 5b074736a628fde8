//! Ranges of addresses.

use std::net::IpAddr;

/// What is wrong with a text that is no range.
pub(crate) const NOT_A_CIDR: &str =
    "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";

/// Whether this is an address, a slash and how many of its bits count.
pub(crate) fn is_cidr(text: &str) -> bool {
    family(text).is_some()
}

/// Whether a range is one of IPv4; `None` for what is no range.
pub(crate) fn family(text: &str) -> Option<bool> {
    let (ip, bits) = text.split_once('/')?;
    let ip: IpAddr = ip.parse().ok()?;
    // A sign or zeros in front are numbers, but not how ranges are written.
    let plain = !bits.starts_with('+') && (bits == "0" || !bits.starts_with('0'));
    let bits: u8 = bits.parse().ok()?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    (plain && bits <= most).then_some(ip.is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_ranges() {
        assert_eq!(family("10.0.0.0/8"), Some(true));
        assert_eq!(family("fd00::/64"), Some(false));
        for bad in [
            "10.0.0.0",
            "10.0.0.0/33",
            "x/8",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "/",
        ] {
            assert!(!is_cidr(bad), "{bad}");
        }
    }
}
