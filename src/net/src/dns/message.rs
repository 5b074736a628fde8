//! From a request to its answer.

use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record as Rr, RecordType, rdata},
};

use super::{MAX_UDP, MIN_UDP};
use crate::{
    fabric::Inner,
    records::{self, Known, Lifetime, Record},
};

/// Seconds for which a Service's address may be kept, as clusters have it.
const TTL: u32 = 30;
/// The same for a pod's address, and for the news that there is nobody.
const SHORT_TTL: u32 = 5;
/// Aliases that are followed within the cluster.
const MAX_ALIASES: usize = 8;
/// Records of one answer: a headless Service may have thousands of pods.
const MAX_RECORDS: usize = 1000;

/// What to do with a request.
pub(super) enum Reply {
    /// Answer this.
    Answer(Vec<u8>),
    /// Ask others, and hand on what they say; if they don't, answer this.
    Ask { failed: Vec<u8>, limit: usize },
    /// Nothing: it is no request.
    Nothing,
}

/// Answers a request, as far as the cluster's own names go. `udp`: the answer has to fit into a datagram.
pub(super) fn reply(fabric: &Inner, request: &[u8], udp: bool, forwards: bool) -> Reply {
    let Ok(request) = Message::from_vec(request) else {
        return malformed(request);
    };
    if request.metadata.message_type != MessageType::Query {
        return Reply::Nothing;
    }
    let limit = match (&request.edns, udp) {
        (_, false) => usize::from(u16::MAX),
        (Some(edns), true) => usize::from(edns.max_payload().clamp(MIN_UDP, MAX_UDP)),
        (None, true) => usize::from(MIN_UDP),
    };
    let mut answer = empty(&request);
    let is_foreign = fill(fabric, &request, &mut answer);
    if is_foreign && forwards {
        answer.metadata.response_code = ResponseCode::ServFail;
        return match encode(&answer, limit) {
            Some(failed) => Reply::Ask { failed, limit },
            None => Reply::Nothing,
        };
    }
    if is_foreign {
        answer.metadata.response_code = ResponseCode::Refused;
    }
    encode(&answer, limit).map_or(Reply::Nothing, Reply::Answer)
}

/// Something that can't be read gets at least its number back, if it has one and is not itself an answer.
fn malformed(request: &[u8]) -> Reply {
    let &[high, low, flags, ..] = request else {
        return Reply::Nothing;
    };
    if request.len() < 12 || flags & 0x80 != 0 {
        return Reply::Nothing;
    }
    let id = u16::from_be_bytes([high, low]);
    let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
    encode(&answer, usize::from(MIN_UDP)).map_or(Reply::Nothing, Reply::Answer)
}

fn empty(request: &Message) -> Message {
    let mut answer = Message::response(request.metadata.id, request.metadata.op_code);
    answer.metadata = Metadata::response_from_request(&request.metadata);
    answer.metadata.recursion_available = true;
    answer.add_queries(request.queries.iter().cloned());
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP);
        answer.set_edns(edns);
    }
    answer
}

/// Answers out of the tables. True: the name is not one of the cluster's.
fn fill(fabric: &Inner, request: &Message, answer: &mut Message) -> bool {
    let metadata = &mut answer.metadata;
    if request.metadata.op_code != OpCode::Query {
        metadata.response_code = ResponseCode::NotImp;
        return false;
    }
    if request
        .edns
        .as_ref()
        .is_some_and(|edns| edns.version() != 0)
    {
        metadata.response_code = ResponseCode::BADVERS;
        return false;
    }
    let [query] = &request.queries[..] else {
        metadata.response_code = ResponseCode::FormErr;
        return false;
    };
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        metadata.response_code = ResponseCode::Refused;
        return false;
    }
    let mut owner = query.name().clone();
    for _ in 0..MAX_ALIASES {
        let known = match text_of(&owner) {
            Some(name) => records::find(fabric, &name),
            None => Known::Foreign,
        };
        let records = match known {
            Known::Foreign if answer.answers.is_empty() => return true,
            // An alias for something outside: whoever asked goes on from there.
            Known::Foreign => return false,
            Known::Nobody => {
                answer.metadata.response_code = ResponseCode::NXDomain;
                Vec::new()
            }
            Known::Records(records) => records,
        };
        answer.metadata.authoritative = true;
        let found = records
            .iter()
            .filter_map(|record| resource(&owner, record, query.query_type()));
        answer.answers.extend(found.take(MAX_RECORDS));
        match records.first() {
            Some(Record::Alias(target)) if query.query_type() != RecordType::CNAME => {
                match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
                    Ok(name) => owner = name,
                    Err(_) => return false,
                }
            }
            _ => break,
        }
    }
    if answer.answers.is_empty() {
        answer.authorities.extend(authority(fabric));
    }
    false
}

/// A name as the tables have it, if all of it can be a name there.
fn text_of(name: &Name) -> Option<String> {
    let mut text = String::with_capacity(name.len());
    for label in name {
        if !label.iter().all(u8::is_ascii_graphic) || label.contains(&b'.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.extend(
            label
                .iter()
                .map(|&byte| char::from(byte.to_ascii_lowercase())),
        );
    }
    Some(text)
}

/// A record on the wire, if it is of the kind that is asked for.
fn resource(owner: &Name, record: &Record, wanted: RecordType) -> Option<Rr> {
    let name = |text: &str| Name::from_ascii(format!("{}.", text.trim_end_matches('.'))).ok();
    let (kind, ttl, data) = match record {
        Record::Address(ip, lifetime) => {
            let ttl = match lifetime {
                Lifetime::Service => TTL,
                Lifetime::Pod => SHORT_TTL,
            };
            match ip {
                std::net::IpAddr::V4(ip) => (RecordType::A, ttl, RData::A(rdata::A(*ip))),
                std::net::IpAddr::V6(ip) => (RecordType::AAAA, ttl, RData::AAAA(rdata::AAAA(*ip))),
            }
        }
        Record::Service { port, target } => {
            let data = rdata::SRV::new(0, 100, *port, name(target)?);
            (RecordType::SRV, SHORT_TTL, RData::SRV(data))
        }
        // Whatever is asked, the alias is the answer.
        Record::Alias(target) => {
            let data = RData::CNAME(rdata::CNAME(name(target)?));
            return Some(Rr::from_rdata(owner.clone(), TTL, data));
        }
        Record::Pointer(target) => {
            let data = RData::PTR(rdata::PTR(name(target)?));
            (RecordType::PTR, SHORT_TTL, data)
        }
        Record::Text(text) => {
            let data = rdata::TXT::new(vec![(*text).to_owned()]);
            (RecordType::TXT, TTL, RData::TXT(data))
        }
    };
    (kind == wanted || wanted == RecordType::ANY).then(|| Rr::from_rdata(owner.clone(), ttl, data))
}

/// Who says that there is nothing, and for how long to believe it.
fn authority(fabric: &Inner) -> Option<Rr> {
    let domain = &fabric.config.cluster_domain;
    let name = |text: String| Name::from_ascii(text).ok();
    let data = rdata::SOA::new(
        name(format!("ns.dns.{domain}."))?,
        name(format!("hostmaster.{domain}."))?,
        1,
        7200,
        1800,
        86_400,
        SHORT_TTL,
    );
    let zone = name(format!("{domain}."))?;
    Some(Rr::from_rdata(zone, SHORT_TTL, RData::SOA(data)))
}

/// The answer in at most so many bytes: if it is longer, without its records and with the word to ask by TCP.
fn encode(answer: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    let bytes = answer.truncate().to_vec().ok()?;
    (bytes.len() <= limit).then_some(bytes)
}

/// Cuts what others said down to what the client takes.
pub(super) fn fit(answer: Vec<u8>, limit: usize) -> Option<Vec<u8>> {
    if answer.len() <= limit {
        return Some(answer);
    }
    encode(&Message::from_vec(&answer).ok()?, limit)
}

/// For fuzzing: answers a request in a fabric, and nothing else.
#[doc(hidden)]
pub fn fuzz_answer(fabric: &crate::Fabric, request: &[u8], udp: bool) -> Option<Vec<u8>> {
    match reply(fabric.inner(), request, udp, false) {
        Reply::Answer(answer) => Some(answer),
        Reply::Ask { .. } | Reply::Nothing => None,
    }
}
