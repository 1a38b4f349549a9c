//! Any row of operations is as a map would have it. A seed that failed is printed.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Store(u64, Entry),
    Lookup(u64),
    LookupAll(Vec<u64>, usize),
    Reopen,
    Wait(u32),
}

fn entry() -> impl Strategy<Value = Entry> {
    let usage = proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>()));
    let reply = (
        prop_oneof![".{0,40}", "\\PC{500,900}", Just("\u{fdfd}".repeat(20_000))],
        prop_oneof![Just(Finish::Stop), Just(Finish::Done)],
        usage,
        proptest::option::of(".{0,10}"),
    )
        .prop_map(|(text, finish, usage, model)| {
            Entry::Reply(Reply {
                text,
                finish,
                usage: usage.map(|(prompt_tokens, completion_tokens, cached_tokens)| Usage {
                    prompt_tokens,
                    completion_tokens,
                    cached_tokens,
                }),
                model,
                id: None,
                refill: None,
            })
        });
    let most = usize::try_from(i64::MAX).unwrap();
    let split = (0..=most, 0..=most).prop_map(|(end, start)| Entry::Split { end, start });
    prop_oneof![4 => reply, 1 => split]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        4 => (0..12u64, entry()).prop_map(|(key, entry)| Operation::Store(key, entry)),
        2 => (0..12u64).prop_map(Operation::Lookup),
        2 => (proptest::collection::vec(0..12u64, 0..9), prop_oneof![0..3000usize, Just(usize::MAX)])
            .prop_map(|(keys, most)| Operation::LookupAll(keys, most)),
        1 => Just(Operation::Reopen),
        1 => (0..8 * 3600u32).prop_map(Operation::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_cache_is_a_map_that_forgets_what_is_old(
        operations in proptest::collection::vec(operation(), 1..60),
    ) {
        let folder = Folder::new();
        let hand = Hand::new();
        let mut cache = hand.open(options(&folder.file()));
        let mut map: HashMap<u64, (Entry, i64)> = HashMap::new();
        let mut now = 0;
        for operation in operations {
            match operation {
                Operation::Store(number, entry) => {
                    store(&cache, number, entry.clone());
                    map.insert(number, (entry, now));
                }
                Operation::Lookup(number) => {
                    let known = map.get(&number).filter(|(_, stored)| now - stored < 24 * HOUR);
                    let found = cache.lookup(&key(number));
                    prop_assert_eq!(found.as_ref(), known.map(|(entry, _)| entry));
                }
                Operation::LookupAll(numbers, most) => {
                    let keys: Vec<Key> = numbers.iter().map(|number| key(*number)).collect();
                    let (mut expected, mut bytes) = (Vec::new(), 0);
                    for number in numbers {
                        let known = map.get(&number).filter(|(_, stored)| now - stored < 24 * HOUR);
                        let entry = known.map(|(entry, _)| entry.clone());
                        bytes += entry.as_ref().map_or(0, Entry::bytes);
                        let is_miss = entry.is_none();
                        expected.push(entry);
                        if is_miss || bytes >= most as u64 {
                            break;
                        }
                    }
                    prop_assert_eq!(cache.lookup_all(&keys, most), expected);
                }
                Operation::Reopen => {
                    end(cache);
                    cache = hand.open(options(&folder.file()));
                }
                Operation::Wait(seconds) => {
                    now += i64::from(seconds);
                    hand.go(i64::from(seconds));
                }
            }
        }
        end(cache);
    }
}
