//! The summariser: sentences chosen from the text, never written anew.
//!
//! The method is that of the first automatic abstracts (Luhn 1958, Edmundson
//! 1969): a sentence counts for the frequent words it holds, for words of the
//! headings, for its place and for words that announce a conclusion. Sentences
//! of words already told come last, so that nothing is said twice.
//! Terms are words, or pairs of characters where no blanks part the words.
//! All steps are linear or a sort, for a file may come whole.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use crate::demo::passage::{self, Kind, Language, Unit, is_ended, is_tight, is_wide};

/// What is asked of a summary.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Wish {
    pub(super) length: Length,
    /// A list with one sentence an item.
    pub(super) is_list: bool,
    /// The language it must be in, which is that of its text.
    pub(super) language: Option<Language>,
}

/// How long a summary may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Length {
    /// About a quarter of the text.
    Share,
    /// At most so many sentences.
    Sentences(usize),
    /// At most so many words, or characters in Chinese.
    Words(usize),
}

/// A text of two sentences is left as it is up to this size, in columns.
const SHORT: usize = 240;

/// The share of known terms, in percent, over which a sentence only repeats what
/// others have told.
const TOLD: usize = 60;

/// English words that say nothing about what a text is about.
const STOP_WORDS: &str = "a about above after again all also am an and any are as at be because \
    been before being between both but by can could did do does doing down during each even \
    every few for from further get got had has have having he her here hers him his how however i \
    if in into is it its just like made make many may me might more most much must my no nor not \
    now of off often on once one only or other our out over own said same shall she should since \
    so some such than that the their them then there these they this those though through thus to \
    too two under until up upon us use used very was we well were what when where which while who \
    whom whose why will with within without would yet you your";

/// Characters of Chinese and Japanese that join words rather than begin them.
const STOP_CHARACTERS: &str = "的了是在和与與也就都而及着著或一个個这這那我你他她它们們有不被把从從为為\
    于於以其所之并並但此还還又很最更吗嗎呢吧啊";

/// Beginnings of sentences that lean on the one before.
const LEANING: &str = "he she it they this these those such but however and so then therefore thus \
    moreover furthermore also yet instead otherwise his her their its";

/// The same in Chinese.
const LEANING_WIDE: &str =
    "他 她 它 这 這 那 但 然而 而 所以 于是 於是 因此 此外 同时 同時 不过 不過 其";

/// Words that announce what matters, parted by `|`.
const CUES: &str = "in conclusion|in summary|in short|to sum up|most important|main reason|\
    the key |significant|we found|the result|shows that|showed that|\
    总之|總之|综上|綜上|最重要|关键|關鍵|结论|結論|表明|结果|結果";

/// The main sentences of `text` in its own order, or nothing if `wish` takes
/// more than choosing: another language, or fewer words than any sentence has.
pub(super) fn summarize(text: &str, wish: &Wish) -> Option<String> {
    let mut units = passage::units(text);
    let mut vocabulary = Vocabulary::new();
    let mut bags: Vec<Bag> = units.iter().map(|unit| vocabulary.read(unit)).collect();
    if let Some(language) = wish.language
        && (language == Language::Other || language != language_of(&bags))
    {
        return None;
    }
    // Headings are told by their words only, unless there is nothing else.
    if units.iter().any(|unit| unit.kind != Kind::Heading) {
        let mut is_body = units.iter().map(|unit| unit.kind != Kind::Heading);
        bags.retain(|_| is_body.next().unwrap_or(true));
        units.retain(|unit| unit.kind != Kind::Heading);
    }
    let chosen = Choice::new(&units, &bags, &vocabulary).choose(wish.length);
    let sentences: Vec<&Unit> = chosen.into_iter().map(|at| &units[at]).collect();
    (!sentences.is_empty()).then(|| written(&sentences, wish.is_list))
}

/// The terms of one sentence.
#[derive(Default)]
struct Bag {
    /// Ids of the terms, each once.
    terms: Vec<usize>,
    /// How many terms, with repetitions.
    size: u32,
    /// Words, and characters of scripts without blanks.
    words: usize,
    wide: usize,
    /// Japanese syllables, which Chinese has not.
    kana: usize,
    stop_words: usize,
}

/// The terms of the whole text.
struct Vocabulary {
    stop_words: HashSet<&'static str>,
    ids: HashMap<String, usize>,
    terms: Vec<Term>,
}

#[derive(Clone, Copy, Default)]
struct Term {
    count: u32,
    sentences: u32,
    is_in_heading: bool,
}

impl Vocabulary {
    fn new() -> Self {
        Self {
            stop_words: STOP_WORDS.split(' ').collect(),
            ids: HashMap::new(),
            terms: Vec::new(),
        }
    }

    /// Counts the terms of a unit.
    fn read(&mut self, unit: &Unit) -> Bag {
        let mut bag = Bag::default();
        let text = unit.text.to_lowercase();
        for word in text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '’')) {
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let is_other = |c| is_wide(c) != is_wide(first);
                let end = rest.find(is_other).unwrap_or(rest.len());
                let (run, after) = rest.split_at(end);
                if is_wide(first) {
                    self.read_wide(run, &mut bag);
                } else {
                    self.read_word(run, &mut bag);
                }
                rest = after;
            }
        }
        bag.terms.sort_unstable();
        bag.terms.dedup();
        for id in &bag.terms {
            self.terms[*id].sentences += 1;
            self.terms[*id].is_in_heading |= unit.kind == Kind::Heading;
        }
        bag
    }

    fn read_word(&mut self, word: &str, bag: &mut Bag) {
        let word = word.trim_matches(['\'', '’']);
        let word = word.strip_suffix("'s").unwrap_or(word);
        let word = word.strip_suffix("’s").unwrap_or(word);
        if word.is_empty() {
            return;
        }
        bag.words += 1;
        if self.stop_words.contains(word) {
            bag.stop_words += 1;
        } else if word.chars().nth(1).is_some() {
            self.add(&singular(word), bag);
        }
    }

    fn read_wide(&mut self, run: &str, bag: &mut Bag) {
        let is_kana = |c: &char| matches!(c, '\u{3040}'..='\u{30ff}');
        bag.wide += run.chars().count();
        bag.kana += run.chars().filter(is_kana).count();
        let mut previous: Option<(usize, char)> = None;
        for (at, c) in run.char_indices() {
            // Hiragana writes endings and particles.
            let is_stop = STOP_CHARACTERS.contains(c) || matches!(c, '\u{3040}'..='\u{309f}');
            if let Some((begin, _)) = previous.filter(|_| !is_stop) {
                self.add(&run[begin..at + c.len_utf8()], bag);
            }
            previous = (!is_stop).then_some((at, c));
        }
    }

    fn add(&mut self, term: &str, bag: &mut Bag) {
        let id = if let Some(id) = self.ids.get(term) {
            *id
        } else {
            self.ids.insert(term.to_owned(), self.terms.len());
            self.terms.push(Term::default());
            self.terms.len() - 1
        };
        self.terms[id].count += 1;
        bag.terms.push(id);
        bag.size += 1;
    }
}

/// The word without an English plural's ending: other endings would take a
/// dictionary.
fn singular(word: &str) -> Cow<'_, str> {
    let is_plural = word.len() > 3 && !["ss", "us", "is"].iter().any(|end| word.ends_with(end));
    match word.strip_suffix('s').filter(|_| is_plural) {
        None => Cow::Borrowed(word),
        Some(stem) => match stem.strip_suffix("ie") {
            Some(stem) => Cow::Owned(format!("{stem}y")),
            None => Cow::Borrowed(stem),
        },
    }
}

fn language_of(bags: &[Bag]) -> Language {
    let sum = |count: fn(&Bag) -> usize| bags.iter().map(count).sum::<usize>();
    let (words, wide) = (sum(|bag| bag.words), sum(|bag| bag.wide));
    if wide > words && sum(|bag| bag.kana) * 20 < wide {
        Language::Chinese
    } else if words > wide && sum(|bag| bag.stop_words) * 5 > words {
        Language::English
    } else {
        Language::Other
    }
}

/// Sentences being chosen.
struct Choice<'text> {
    bags: &'text [Bag],
    /// Width of each sentence in columns, which compares scripts fairly.
    sizes: Vec<usize>,
    /// What each term is worth.
    weights: Vec<f64>,
    /// What each sentence is worth beside its terms.
    factors: Vec<f64>,
    is_told: Vec<bool>,
    chosen: Vec<usize>,
    used: usize,
}

impl<'text> Choice<'text> {
    fn new(units: &[Unit], bags: &'text [Bag], vocabulary: &Vocabulary) -> Self {
        let sentences = u32::try_from(units.len()).unwrap_or(u32::MAX);
        let weight = |term: &Term| {
            // In a language without a list of stop words here, these are the
            // words that most sentences hold.
            let is_everywhere = sentences >= 8 && term.sentences > sentences / 2;
            let heading = if term.is_in_heading { 1.5 } else { 1.0 };
            let spread = if is_everywhere { 0.25 } else { 1.0 };
            (0.2 + f64::from(term.count).ln()) * heading * spread
        };
        let factors = units.iter().zip(bags).enumerate();
        Self {
            bags,
            sizes: units
                .iter()
                .map(|unit| passage::columns(&unit.text))
                .collect(),
            weights: vocabulary.terms.iter().map(weight).collect(),
            factors: factors
                .map(|(at, (unit, bag))| place(at, units.len() - 1, unit) * shape(unit, bag))
                .collect(),
            is_told: vec![false; vocabulary.terms.len()],
            chosen: Vec::new(),
            used: 0,
        }
    }

    /// What a sentence is worth.
    fn score(&self, at: usize) -> f64 {
        let bag = &self.bags[at];
        let weight: f64 = bag.terms.iter().map(|id| self.weights[*id]).sum();
        // The constant keeps a sentence of two frequent words from winning.
        weight / (f64::from(bag.size) + 6.0) * self.factors[at]
    }

    /// Whether the chosen sentences hold most of the terms of this one. The
    /// terms are not weighed, for all good sentences share the heaviest ones.
    fn is_told(&self, at: usize) -> bool {
        let terms = &self.bags[at].terms;
        let told = terms.iter().filter(|id| self.is_told[**id]).count();
        told * 100 > terms.len() * TOLD
    }

    /// The chosen sentences, in the order of the text.
    fn choose(mut self, length: Length) -> Vec<usize> {
        let total: usize = self.sizes.iter().sum();
        if length == Length::Share && self.sizes.len() <= 2 && total <= SHORT {
            return (0..self.sizes.len()).collect();
        }
        let mut ranked: Vec<(usize, f64)> = (0..self.sizes.len())
            .map(|at| (at, self.score(at)))
            .collect();
        ranked.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        // Room that is left is no reason to fill it with what matters least.
        if length == Length::Share {
            ranked.truncate(ranked.len().div_ceil(2));
        }
        // A sentence that mostly repeats what is chosen waits for a second round.
        let mut waiting = Vec::new();
        for (at, _) in &ranked {
            if self.is_told(*at) {
                waiting.push(*at);
            } else {
                self.take_if_fit(*at, length, total);
            }
        }
        for at in waiting {
            self.take_if_fit(at, length, total);
        }
        // Each sentence is a large part of the text: the best one, alone.
        if self.chosen.is_empty() && length == Length::Share {
            self.chosen.extend(ranked.first().map(|(at, _)| *at));
        }
        self.chosen.sort_unstable();
        self.chosen
    }

    fn take_if_fit(&mut self, at: usize, length: Length, total: usize) {
        let (size, fits) = match length {
            Length::Share => {
                let size = self.sizes[at];
                let limit = if self.chosen.is_empty() { 40 } else { 30 };
                let is_open = self.used * 100 < total * 22;
                (size, is_open && (self.used + size) * 100 <= total * limit)
            }
            Length::Sentences(count) => (0, self.chosen.len() < count),
            Length::Words(count) => {
                let size = self.bags[at].words + self.bags[at].wide;
                (size, self.used + size <= count)
            }
        };
        if fits {
            self.used += size;
            self.chosen.push(at);
            for id in &self.bags[at].terms {
                self.is_told[*id] = true;
            }
        }
    }
}

/// What the place of a sentence is worth.
fn place(at: usize, last: usize, unit: &Unit) -> f64 {
    match at {
        0 => 1.5,
        _ if at == last => 1.15,
        _ if unit.is_opening => 1.2,
        _ => 1.0,
    }
}

/// What the form of a sentence is worth.
fn shape(unit: &Unit, bag: &Bag) -> f64 {
    let mut worth = 1.0;
    if !is_ended(&unit.text) {
        worth *= if unit.kind == Kind::Item { 0.8 } else { 0.4 };
    } else if unit.text.contains(['?', '？']) {
        worth *= 0.6;
    }
    // Two characters are about a word.
    let words = bag.words + bag.wide / 2;
    if words < 5 {
        worth *= 0.5;
    } else if words > 45 {
        worth *= 0.7;
    }
    let text = unit.text.to_lowercase();
    let opening = text.split(|c: char| !c.is_alphanumeric()).next();
    if opening.is_some_and(|word| LEANING.split(' ').any(|entry| entry == word))
        || LEANING_WIDE.split(' ').any(|word| text.starts_with(word))
    {
        worth *= 0.75;
    }
    if CUES.split('|').any(|cue| text.contains(cue)) {
        worth *= 1.3;
    }
    worth
}

/// The chosen sentences as one text.
fn written(sentences: &[&Unit], is_list: bool) -> String {
    let mut text = String::new();
    for sentence in sentences {
        let left = text.chars().next_back();
        let right = sentence.text.chars().next();
        if let (Some(left), Some(right)) = (left, right) {
            if is_list || !is_ended(&text) {
                text.push('\n');
            } else if !is_tight(left, right) {
                text.push(' ');
            }
        }
        if is_list {
            text.push_str("- ");
        }
        text.push_str(&sentence.text);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENGLISH: &str = "\
# Why cities plant trees

Street trees cool a city more than any other measure of the same price. In the
summer of last year a shaded street stayed six degrees below an open one. The
leaves let water evaporate, and the shade keeps asphalt from storing heat. My
aunt lives on such a street and likes it. People walk more where there is
shade.

Planting is cheap, but keeping a young tree alive is not. A young tree needs
water for three summers before its roots reach deep enough. Half of all street
trees that cities plant die before the tenth year, mostly of drought. Was it
the wrong kind of tree? Sometimes it was. Anna Lind, who counted them, blames
small pits and salt in winter.

```
let tree = Tree::new();
```

Some towns therefore ask neighbours for help. Neighbours who adopt a street
tree water it, loosen its soil and report damage. In Lund the share of young
trees that survive rose from half to nine in ten. The lesson is that street
trees need care more than they need money. A bench was painted green.
";

    const CHINESE: &str = "\
城市为什么要种行道树

行道树是给城市降温最便宜的办法。去年夏天，有树荫的街道比没有树荫的街道低了六度。
树叶蒸发水分，树荫让沥青路面不再蓄热。我姑妈就住在这样的街上，她很喜欢。有树荫的地
方，走路的人也多。

种树便宜，养活小树却不便宜。小树要浇三个夏天的水，根才能扎得够深。城市种下的行道树，
有一半活不到第十年，多数死于干旱。是树种选错了吗？有时候是。

于是一些城市请居民帮忙。认养行道树的居民给小树浇水、松土，并报告损坏。在一个小城里，
小树的成活率从一半升到了九成。关键在于：行道树需要的是照料，而不只是钱。有一条长椅漆
成了绿色。
";

    fn wish(length: Length) -> Wish {
        Wish {
            length,
            is_list: false,
            language: None,
        }
    }

    fn summary(text: &str, length: Length) -> String {
        summarize(text, &wish(length)).expect("a summary")
    }

    /// Asserts that `summary` is made of whole sentences of `text` in order.
    fn assert_chosen(summary: &str, text: &str) {
        let units = passage::units(text);
        let mut rest = summary;
        for unit in &units {
            rest = rest.strip_prefix(&unit.text).unwrap_or(rest).trim_start();
        }
        assert_eq!(rest, "", "not from the text, or not in its order");
    }

    #[test]
    fn english_is_cut_to_its_main_sentences() {
        let summary = summary(ENGLISH, Length::Share);
        assert_chosen(&summary, ENGLISH);
        assert!(summary.len() * 3 < ENGLISH.len(), "{summary}");
        assert!(summary.len() * 6 > ENGLISH.len(), "{summary}");
        assert!(summary.contains("Street trees cool a city"), "{summary}");
        for side in ["aunt", "bench", "Sometimes", "Tree::new", "Why cities"] {
            assert!(!summary.contains(side), "{summary}");
        }
    }

    #[test]
    fn chinese_is_cut_to_its_main_sentences() {
        let summary = summary(CHINESE, Length::Share);
        assert_chosen(&summary, CHINESE);
        assert!(summary.len() * 3 < CHINESE.len(), "{summary}");
        assert!(summary.len() * 8 > CHINESE.len(), "{summary}");
        assert!(summary.contains("行道树是给城市降温"), "{summary}");
        assert!(
            !summary.contains("姑妈") && !summary.contains("长椅"),
            "{summary}"
        );
        assert!(!summary.contains([' ', '\n']), "{summary}");
    }

    #[test]
    fn a_number_of_sentences_is_kept() {
        for text in [ENGLISH, CHINESE] {
            for count in 1..6 {
                let summary = summary(text, Length::Sentences(count));
                assert_chosen(&summary, text);
                let units = passage::units(text);
                let held = units.iter().filter(|unit| summary.contains(&unit.text));
                assert_eq!(held.count(), count, "{summary}");
            }
        }
    }

    #[test]
    fn a_number_of_words_is_kept_or_refused() {
        let short = summary(ENGLISH, Length::Words(30));
        assert!(short.split_whitespace().count() <= 30, "{short}");
        let short = summary(CHINESE, Length::Words(50));
        assert!(
            short.chars().filter(|c| c.is_alphanumeric()).count() <= 50,
            "{short}"
        );
        assert_eq!(summarize(ENGLISH, &wish(Length::Words(1))), None);
    }

    #[test]
    fn a_list_has_a_line_for_each_sentence() {
        let list = Wish {
            is_list: true,
            ..wish(Length::Sentences(3))
        };
        let summary = summarize(ENGLISH, &list).expect("a summary");
        let lines: Vec<&str> = summary.lines().collect();
        assert_eq!(lines.len(), 3);
        for line in lines {
            assert_chosen(line.strip_prefix("- ").expect("a bullet"), ENGLISH);
        }
    }

    #[test]
    fn short_texts_stay_or_give_one_sentence() {
        for text in [
            "Only this.",
            "One is here. Two is there.",
            "no stop at all",
            "只有这句。",
        ] {
            assert_eq!(summary(text, Length::Share), text);
        }
        let long = format!(
            "{}is first. {}is second.",
            "Apple ".repeat(30),
            "Pear ".repeat(30)
        );
        let short = summary(&long, Length::Share);
        assert!(short.len() < long.len() && long.contains(&short));
    }

    #[test]
    fn text_without_any_sentence_is_refused() {
        assert_eq!(summarize("***\n\n---", &wish(Length::Share)), None);
    }

    #[test]
    fn the_language_is_that_of_the_text() {
        let within = |text, language| {
            let wish = Wish {
                language: Some(language),
                ..wish(Length::Share)
            };
            summarize(text, &wish).is_some()
        };
        assert!(within(ENGLISH, Language::English));
        assert!(within(CHINESE, Language::Chinese));
        assert!(!within(ENGLISH, Language::Chinese));
        assert!(!within(CHINESE, Language::English));
        assert!(!within(
            "Der Hund läuft durch den Wald. Er bellt laut.",
            Language::English
        ));
        assert!(!within(
            "これは日本語の文です。とても短いです。",
            Language::Chinese
        ));
        assert!(!within(ENGLISH, Language::Other));
    }

    #[test]
    fn what_is_repeated_is_told_once() {
        let text = "The river flooded the old town again. Snow fell on the hills in March. \
                    The river flooded the old town again. Farmers lost most of their seed. \
                    The river flooded the old town again. Roads to the coast were closed.";
        let summary = summary(text, Length::Sentences(2));
        assert_eq!(summary.matches("The river flooded").count(), 1, "{summary}");
    }

    #[test]
    fn a_large_text_is_read_in_one_go() {
        let text = ENGLISH.repeat(400);
        let summary = summary(&text, Length::Share);
        assert!(summary.len() * 3 < text.len());
    }
}
