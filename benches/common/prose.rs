//! English-like prose, made on the spot and the same every time.
//!
//! Words are drawn by Zipf's law from some thousands of forms, so that short
//! common words repeat and rare long ones keep coming, as in real text; a
//! small vocabulary would let every cache shine. Real text is still the better
//! measure where there is some.

use std::fmt::Write as _;

/// Common words, the most frequent first.
const COMMON: &str = "the of and to a in that it was he is for on with as his I be at by had not \
are but from or have an they which one you were all her she there would their we him been has when \
who will no more if out so up said what its about than into them can only other time new some could \
these two may first then do any like my now over such our man me even most made after also well did \
many before must years back through much where your way down should because long each just state \
those people too how little good world make very year still see own work men day get here old life \
between both never under same another know while last might us great old come since against right \
came take used himself few house use during without again place around however home small found \
thought went say part once general high upon school every don't does got united left number course \
until always away something fact water though less public put think almost hand enough far took head \
yet better set told nothing night end why called didn't eyes find going look asked later next knew";

/// Stems that grow endings.
const STEMS: &str = "answer argu balanc bargain bind border borrow bright build burn calm captur \
carr cast chang charm circl claim clear climb clos cloud coast collect colour command compar \
complet compos concern conduct consider construct contain control copp cord council counter cover \
craft creat crowd danger deal decid deep defend deliver demand depart describ desert design desir \
develop differ direct discover distanc divid doubt draft dream drift driv earn eager edit effect \
emerg employ empt endur engag enter equal establish examin exchang expect explain express extend \
fail faint famil farm fast fear fertil field figur finish firm flow follow forest form forward \
found frank free fright front fruit furnish gain gath gentl giv glad gold govern grant grow guard \
guid harbour harm harvest hast haul heav help hidd hold hollow honest horiz hunt imagin import \
improv inclin includ increas indicat inform inquir inspect install instruct intend invent iron \
island join journey judg keep kind labour land lantern laugh lead learn length lett level light \
limit listen liv loud machin maintain manag march mark market master matter measur meet memor \
mention merchant metal mild mill mind mirror moment mount mov narrow natur near observ obtain occup \
offer open operat order origin paint parallel partial particular pass patient pattern perform \
period permit persuad plain plant plat pleas point polish poss pract prais precis prefer prepar \
present press prevent print privat proceed produc promis proof propos protect prov provid pull \
purpos push quick quiet rais rang reach read real reason receiv record refer reflect regard region \
relat remain remark remind remov repair repeat report represent requir rest result return reveal \
rich ridg rid riv roof rough round rul sail season secret secur select separat serv settl shad \
shap sharp shelter shin short show sign silenc silver simpl sing sketch sleep slow smooth soft \
solid sound spark special speed spirit spread stabl stand start stead stor storm strang stream \
strength stretch struct struggl stud subject success suffer suggest suppl support suppos surfac \
surpris surround sweet tabl talk task teach temper tend test thick thin thread threat timber total \
touch trac trad train transfer travel treat trembl trench troubl trust turn understand unit valley \
valu vari vast vessel view village visit voic wak walk wand warm watch weav weigh whisper wid wild \
willow wind winter wish wonder wood work worth wound writ yield young";

const ENDINGS: [&str; 12] = [
    "ing", "ed", "er", "ers", "ation", "ly", "ment", "es", "ive", "able", "ness", "al",
];

const NAMES: [&str; 16] = [
    "Mr. Harlow",
    "Mrs. Dane",
    "Dr. Okoro",
    "Anselm",
    "Beatrix",
    "Calder",
    "Edinburgh",
    "Lisbon",
    "the Danube",
    "Professor Lindqvist",
    "Tuesday",
    "November",
    "St. Mary's",
    "J. R. Whitlock",
    "Valparaiso",
    "Old Town",
];

/// Numbers that look random and are the same on every machine (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or_default()
    }

    /// Whether something happens that happens so many times in a hundred.
    pub(crate) fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of some, the first ones far more often than the later: the n-th
    /// in proportion to 1/n.
    pub(crate) fn zipf<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank drawn at random"
        )]
        let rank = {
            let uniform = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
            (((from.len() + 1) as f64).powf(uniform) - 1.0) as usize
        };
        &from[rank.min(from.len() - 1)]
    }
}

/// At least `bytes` of prose in paragraphs, all of it ASCII.
pub(crate) fn english(bytes: usize, seed: u64) -> String {
    let mut random = Random(seed);
    let mut words: Vec<String> = COMMON.split_whitespace().map(str::to_owned).collect();
    let mut rare: Vec<String> = STEMS
        .split_whitespace()
        .flat_map(|stem| ENDINGS.iter().map(move |ending| format!("{stem}{ending}")))
        .collect();
    for at in (1..rare.len()).rev() {
        rare.swap(at, random.below(at + 1));
    }
    words.append(&mut rare);
    let mut text = String::with_capacity(bytes + 4096);
    while text.len() < bytes {
        for _ in 0..2 + random.below(6) {
            sentence(&words, &mut random, &mut text);
            text.push(' ');
        }
        text.pop();
        text.push_str("\n\n");
    }
    text
}

fn sentence(words: &[String], random: &mut Random, text: &mut String) {
    let is_speech = random.percent(8);
    if is_speech {
        text.push('"');
    }
    let start = text.len();
    let length = 4 + random.below(12) + random.below(12);
    for at in 0..length {
        match random.below(100) {
            0..3 => text.push_str(NAMES[random.below(NAMES.len())]),
            3 => {
                let _ = write!(text, "1,{:03}", random.below(1000));
            }
            4 => {
                let _ = write!(text, "{}.{}", random.below(90), random.below(10));
            }
            _ => text.push_str(random.zipf(words).as_str()),
        }
        if at + 1 < length {
            text.push_str(match random.below(40) {
                0..3 => ", ",
                3 => "; ",
                _ => " ",
            });
        }
    }
    if let Some(first) = text.get_mut(start..=start) {
        first.make_ascii_uppercase();
    }
    text.push(match random.below(20) {
        0 => '?',
        1 => '!',
        _ => '.',
    });
    if is_speech {
        text.push('"');
    }
}
