"""Search in scripts whose signs combine, and in scripts that do not write where a word ends: real sentences."""

import pytest
from rich.console import Console

from appo.tools.search import LocalSearch, Page
from appo.tools.search import bm25 as search
from appo.tools.search.words import words

# Of each language: a capital, boiling water, a cat and a dog, the highest mountain.
SENTENCES = {
    "hindi": [
        "नई दिल्ली भारत की राजधानी है।",
        "पानी सौ डिग्री सेल्सियस पर उबलता है।",
        "बिल्ली और कुत्ता आँगन में सो रहे हैं।",
        "एवरेस्ट दुनिया का सबसे ऊँचा पर्वत माना जाता है।",
    ],
    "bengali": [
        "ঢাকা বাংলাদেশের রাজধানী এবং বৃহত্তম শহর।",
        "জল একশো ডিগ্রি সেলসিয়াসে ফোটে।",
        "বিড়াল আর কুকুর উঠোনে ঘুমাচ্ছে।",
        "এভারেস্ট পৃথিবীর সর্বোচ্চ পর্বত।",
    ],
    "tamil": [
        "புது தில்லி இந்தியாவின் தலைநகரம் ஆகும்.",
        "தண்ணீர் நூறு டிகிரியில் கொதிக்கும்.",
        "பூனையும் நாயும் முற்றத்தில் தூங்குகின்றன.",
        "எவரெஸ்ட் உலகின் மிக உயரமான மலை.",
    ],
    "thai": [
        "กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย",
        "น้ำเดือดที่อุณหภูมิหนึ่งร้อยองศาเซลเซียส",
        "แมวกับสุนัขนอนหลับอยู่ในสวน",
        "ยอดเขาเอเวอเรสต์สูงที่สุดในโลก",
    ],
    "lao": [
        "ວຽງຈັນເປັນນະຄອນຫຼວງຂອງລາວ",
        "ນ້ຳຟົດຢູ່ໜຶ່ງຮ້ອຍອົງສາ",
        "ແມວກັບໝານອນຢູ່ໃນສວນ",
        "ພູເອເວີເຣສສູງທີ່ສຸດໃນໂລກ",
    ],
    "khmer": [
        "ភ្នំពេញជារាជធានីនៃប្រទេសកម្ពុជា",
        "ទឹកពុះនៅមួយរយអង្សាសេ",
        "ឆ្មានិងឆ្កែកំពុងដេក",
        "អេវឺរេសខ្ពស់ជាងគេនៅលើពិភពលោក",
    ],
    "burmese": [
        "နေပြည်တော်သည် မြန်မာနိုင်ငံ၏ မြို့တော်ဖြစ်သည်။",
        "ရေသည် တစ်ရာဒီဂရီတွင် ဆူသည်။",
        "ကြောင်နှင့်ခွေး အိပ်နေကြသည်။",
        "ဧဝရတ်တောင်သည် ကမ္ဘာ့အမြင့်ဆုံးတောင်ဖြစ်သည်။",
    ],
    "chinese": [
        "北京是中华人民共和国的首都。",
        "水在一百摄氏度时沸腾。",
        "猫和狗在院子里睡觉。",
        "珠穆朗玛峰是世界最高峰。",
        "东京位于日本关东地区。",
    ],
    "japanese": [
        "東京は日本の首都です。",
        "水は摂氏百度で沸騰します。",
        "猫と犬が庭で寝ています。",
        "エベレストは世界で一番高い山です。",
        "京都には古いお寺がたくさんあります。",
    ],
    "korean": [
        "서울은 대한민국의 수도이다.",
        "물은 섭씨 백도에서 끓는다.",
        "고양이와 개가 마당에서 자고 있다.",
        "에베레스트는 세계에서 가장 높은 산이다.",
    ],
}
# What is asked, and the numbers of exactly those sentences that share a word with it.
QUERIES = [
    ("hindi", "दिल्ली", [0]),
    ("hindi", "राजधानी", [0]),
    ("hindi", "पानी", [1]),
    ("hindi", "दिल", []),
    ("hindi", "किताब पढ़ना", []),
    ("hindi", "ऊँचा पर्वत", [3]),
    ("bengali", "রাজধানী", [0]),
    ("bengali", "বিড়াল", [2]),
    ("bengali", "পর্বত", [3]),
    ("bengali", "বই", []),
    ("tamil", "தலைநகரம்", [0]),
    ("tamil", "தண்ணீர்", [1]),
    ("tamil", "மலை", [3]),
    ("tamil", "மழை", []),
    ("thai", "เมืองหลวง", [0]),
    ("thai", "ประเทศไทย", [0]),
    ("thai", "อุณหภูมิ", [1]),
    ("thai", "สุนัข", [2]),
    ("thai", "ดนตรี", []),
    ("lao", "ນະຄອນຫຼວງ", [0]),
    ("lao", "ອົງສາ", [1]),
    ("lao", "ດົນຕີ", []),
    ("khmer", "រាជធានី", [0]),
    ("khmer", "ពិភពលោក", [3]),
    ("khmer", "ចម្រៀង", []),
    ("burmese", "မြန်မာ", [0]),
    ("burmese", "ကမ္ဘာ", []),
    ("burmese", "ဒီဂရီ", [1]),
    ("burmese", "သီချင်း", []),
    ("chinese", "北京", [0]),
    ("chinese", "首都", [0]),
    ("chinese", "沸腾", [1]),
    ("chinese", "水", [1]),
    ("chinese", "世界最高峰", [3]),
    ("chinese", "京剧", []),
    ("chinese", "东京", [4]),
    ("chinese", "日本的首都是什么", [0, 4]),
    ("japanese", "東京", [0]),
    ("japanese", "首都", [0]),
    ("japanese", "京都", [4]),
    ("japanese", "エベレスト", [3]),
    ("japanese", "ｴﾍﾞﾚｽﾄ", [3]),
    ("japanese", "犬と水", [2, 1]),
    ("japanese", "日本の首都は何ですか", [0]),
    ("japanese", "音楽です", []),
    ("korean", "대한민국", [0]),
    ("korean", "고양이", [2]),
    ("korean", "음악", []),
]


QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def searches(tmp_path_factory):
    directory = tmp_path_factory.mktemp("indices")
    return {
        language: LocalSearch([Page(text) for text in texts], directory, console=QUIET)
        for language, texts in SENTENCES.items()
    }


@pytest.mark.parametrize(("language", "query", "expected"), QUERIES)
def test_exactly_the_pages_that_share_a_word_are_found(searches, language, query, expected):
    found = [SENTENCES[language].index(page.text) for page in searches[language].find(query)]
    assert found == expected


@pytest.mark.parametrize("language", SENTENCES)
def test_every_sentence_is_the_first_that_is_found_for_itself(searches, language):
    for text in SENTENCES[language]:
        assert searches[language].find(text)[0].text == text


def test_signs_that_combine_are_letters_of_their_word():
    assert words("हिन्दी में क्षत्रिय") == ["हिन्दी", "में", "क्षत्रिय"]
    assert words("সুবর্ণরেখা নদী") == ["সুবর্ণরেখা", "নদী"]
    assert words("தமிழ் மொழி") == ["தமிழ்", "மொழி"]


def test_accents_and_vowel_points_of_alphabets_are_left_out():
    assert words("Yaméogo Đặng Σίσυφος Ёлка") == ["yameogo", "đang", "σισυφοσ", "елка"]
    assert words("שָׁלוֹם مُحَمَّد") == ["שלום", "محمد"]


def test_one_text_in_two_forms_of_unicode_has_the_same_words():
    assert words("ガ") == words("ガ") == words("ｶﾞ") == ["ガ"]
    assert words("क़लम") == words("क़लम")
    assert words("ＡＢＣ １２") == ["abc", "12"]
    assert words("한국") == words("한국") == ["한", "국", "한국"]


def test_what_is_not_seen_parts_no_word():
    assert words("co\u00adoperate می\u200cخواهم") == ["cooperate", "میخواهم"]


def test_characters_and_their_neighbours_are_words_of_a_page():
    assert words("iPhone手机 x") == ["iphone", "手", "机", "手机", "x"]
    assert words("ภาษาไทย") == ["ภา", "ษา", "ไท", "ย", "ภาษา", "ษาไท", "ไทย"]
    assert words("ខ្មែរ") == ["ខ្មែ", "រ", "ខ្មែរ"]


def test_neighbours_without_a_vowel_take_a_third():
    assert words("คนมา") == ["ค", "น", "มา", "คน", "นมา", "คนมา"]
    assert words("คนมา", query=True) == ["คนมา", "นมา"]
    assert words("คน", query=True) == ["คน"]


def test_a_query_has_neighbours_and_characters_that_stand_alone():
    assert words("手机", query=True) == ["手机"]
    assert words("手 猫と犬", query=True) == ["手", "猫", "犬", "猫と", "と犬"]
    assert words("น้ำ", query=True) == words("น้ำ")


def test_an_index_of_a_former_format_is_not_opened(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(search, "FORMAT", search.FORMAT - 1)
        patch.setattr("appo.tools.search.bm25_index.words", lambda text, query=False: ["everything"])
        LocalSearch([Page("one")], tmp_path, console=QUIET)
    assert LocalSearch([Page("one")], tmp_path, console=QUIET).find("one") == [Page("one")]
