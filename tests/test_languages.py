"""Languages by any name, and scripts."""

import warnings

import pytest

from mmx.errors import InputError
from mmx.models.whisper.tokenizer import LANGUAGES
from mmx.text.languages import check_script, choose, find_language, is_written_with

_FLORES = """
ace_Arab ace_Latn acm_Arab acq_Arab aeb_Arab afr_Latn ajp_Arab aka_Latn als_Latn amh_Ethi apc_Arab arb_Arab arb_Latn
ars_Arab ary_Arab arz_Arab asm_Beng ast_Latn awa_Deva ayr_Latn azb_Arab azj_Latn bak_Cyrl bam_Latn ban_Latn bel_Cyrl
bem_Latn ben_Beng bho_Deva bjn_Arab bjn_Latn bod_Tibt bos_Latn bug_Latn bul_Cyrl cat_Latn ceb_Latn ces_Latn cjk_Latn
ckb_Arab crh_Latn cym_Latn dan_Latn deu_Latn dik_Latn dyu_Latn dzo_Tibt ell_Grek eng_Latn epo_Latn est_Latn eus_Latn
ewe_Latn fao_Latn fij_Latn fin_Latn fon_Latn fra_Latn fur_Latn fuv_Latn gaz_Latn gla_Latn gle_Latn glg_Latn grn_Latn
guj_Gujr hat_Latn hau_Latn heb_Hebr hin_Deva hne_Deva hrv_Latn hun_Latn hye_Armn ibo_Latn ilo_Latn ind_Latn isl_Latn
ita_Latn jav_Latn jpn_Jpan kab_Latn kac_Latn kam_Latn kan_Knda kas_Arab kas_Deva kat_Geor kaz_Cyrl kbp_Latn kea_Latn
khk_Cyrl khm_Khmr kik_Latn kin_Latn kir_Cyrl kmb_Latn kmr_Latn knc_Arab knc_Latn kon_Latn kor_Hang lao_Laoo lij_Latn
lim_Latn lin_Latn lit_Latn lmo_Latn ltg_Latn ltz_Latn lua_Latn lug_Latn luo_Latn lus_Latn lvs_Latn mag_Deva mai_Deva
mal_Mlym mar_Deva min_Arab min_Latn mkd_Cyrl mlt_Latn mni_Beng mos_Latn mri_Latn mya_Mymr nld_Latn nno_Latn nob_Latn
npi_Deva nso_Latn nus_Latn nya_Latn oci_Latn ory_Orya pag_Latn pan_Guru pap_Latn pbt_Arab pes_Arab plt_Latn pol_Latn
por_Latn prs_Arab quy_Latn ron_Latn run_Latn rus_Cyrl sag_Latn san_Deva sat_Olck scn_Latn shn_Mymr sin_Sinh slk_Latn
slv_Latn smo_Latn sna_Latn snd_Arab som_Latn sot_Latn spa_Latn srd_Latn srp_Cyrl ssw_Latn sun_Latn swe_Latn swh_Latn
szl_Latn tam_Taml taq_Latn taq_Tfng tat_Cyrl tel_Telu tgk_Cyrl tgl_Latn tha_Thai tir_Ethi tpi_Latn tsn_Latn tso_Latn
tuk_Latn tum_Latn tur_Latn twi_Latn tzm_Tfng uig_Arab ukr_Cyrl umb_Latn urd_Arab uzn_Latn vec_Latn vie_Latn war_Latn
wol_Latn xho_Latn ydd_Hebr yor_Latn yue_Hant zho_Hans zho_Hant zsm_Latn zul_Latn
"""

_SEAMLESS = """
afr amh arb ary arz asm ast azj bel ben bos bul cat ceb ces ckb cmn cmn_Hant cym dan deu ell eng est eus fin fra fuv gaz
gle glg guj heb hin hrv hun hye ibo ind isl ita jav jpn kam kan kat kaz kea khk khm kir kor lao lit ltz lug luo lvs mai
mal mar mkd mlt mni mya nld nno nob npi nya oci ory pan pbt pes pol por ron rus slk slv sna snd som spa srp swe swh tam
tel tgk tgl tha tur ukr urd uzn vie xho yor yue zlm zsm zul
"""

_MBART = """
ar_AR cs_CZ de_DE en_XX es_XX et_EE fi_FI fr_XX gu_IN hi_IN it_IT ja_XX kk_KZ ko_KR lt_LT lv_LV my_MM ne_NP nl_XX ro_RO
ru_RU si_LK tr_TR vi_VN zh_CN af_ZA az_AZ bn_IN fa_IR he_IL hr_HR id_ID ka_GE km_KH mk_MK ml_IN mn_MN mr_IN pl_PL ps_AF
pt_XX sv_SE sw_KE ta_IN te_IN th_TH tl_XX uk_UA ur_PK xh_ZA gl_ES sl_SI
"""

FLORES, SEAMLESS, MBART = (codes.split() for codes in (_FLORES, _SEAMLESS, _MBART))
MODELS = {"nllb": FLORES, "seamless": SEAMLESS, "mbart": MBART, "whisper": list(LANGUAGES)}


def test_the_lists_are_whole() -> None:
    assert len(FLORES) == 204 and len(MBART) == 52 and len(LANGUAGES) == 100
    assert len(SEAMLESS) > 100


@pytest.mark.parametrize("spellings", MODELS.values(), ids=MODELS)
def test_every_language_of_every_model_is_known(spellings: list[str]) -> None:
    found = {s: find_language(s) for s in spellings}
    assert len({(x.code, x.script) for x in found.values()}) == len(spellings)
    for spelling, language in found.items():
        assert choose(spelling.upper(), spellings) == spelling
        if sum(x.code == language.code for x in found.values()) == 1:
            assert choose(language.name, spellings) == choose(language.tag, spellings) == spelling


@pytest.mark.parametrize("text", ["German", "de", "deu", "ger", "deu_Latn", "DE-at", "de_DE", "__deu__", " german "])
def test_one_language_has_many_names(text: str) -> None:
    got = find_language(text)
    assert (got.code, got.tag, got.name, got.script) == ("deu", "de", "German", "Latn")
    for spellings, wanted in ((FLORES, "deu_Latn"), (SEAMLESS, "deu"), (MBART, "de_DE"), (list(LANGUAGES), "de")):
        assert choose(text, spellings) == wanted


@pytest.mark.parametrize(
    ("text", "nllb", "seamless"),
    [
        ("Chinese", "zho_Hans", "cmn"), ("Traditional Chinese", "zho_Hant", "cmn_Hant"),
        ("zh-TW", "zho_Hant", "cmn_Hant"),
        ("zh-CN", "zho_Hans", "cmn"), ("Arabic", "arb_Arab", "arb"), ("Egyptian Arabic", "arz_Arab", "arz"),
        ("Persian", "pes_Arab", "pes"), ("Farsi", "pes_Arab", "pes"), ("no", "nob_Latn", "nob"),
        ("nb", "nob_Latn", "nob"),
        ("Swahili", "swh_Latn", "swh"), ("Malay", "zsm_Latn", "zsm"), ("Odia", "ory_Orya", "ory"),
        ("Cantonese", "yue_Hant", "yue"), ("Filipino", "tgl_Latn", "tgl"), ("Santali", "sat_Olck", None),
    ],
)  # fmt: skip
def test_models_disagree_on_names_that_people_use(text: str, nllb: str, seamless: str | None) -> None:
    assert choose(text, FLORES) == nllb
    if seamless:
        assert choose(text, SEAMLESS) == seamless


def test_a_named_script_must_be_there() -> None:
    assert choose("kas_Deva", FLORES) == "kas_Deva"
    with pytest.raises(InputError, match="'Latn'"):
        choose("sr-Latn", FLORES)


@pytest.mark.parametrize(("text", "hint"), [("Germn", "'german'"), ("Hindu", "'hindi'"), ("frensh", "'french'")])
def test_a_misspelt_name_gets_a_suggestion(text: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"Did you mean {hint}"):
        choose(text, FLORES)


def test_a_suggestion_is_a_language_of_the_model() -> None:
    with pytest.raises(InputError) as e:
        choose("frensh", ["en_XX", "hi_IN"])
    assert "french" not in str(e.value)


@pytest.mark.parametrize("text", ["", "qqq", "12", "e", "en fr", "_Latn", "😀"])
def test_what_is_no_language_is_an_error(text: str) -> None:
    with pytest.raises(InputError, match="Unknown language"):
        choose(text, FLORES)


OWN = {
    "en": "Hello", "ru": "Привет", "zh": "你好", "yue": "你好", "ja": "日本語のテキスト", "ko": "안녕하세요",
    "ar": "مرحبا",
    "he": "שלום", "el": "Γειά", "hi": "नमस्ते", "bn": "হ্যালো", "ta": "வணக்கம்", "te": "హలో", "th": "สวัสดี", "lo": "ສະບາຍດີ",
    "my": "မင်္ဂလာပါ", "km": "សួស្តី", "ka": "გამარჯობა", "hy": "Բարեւ", "am": "ሰላም", "pa": "ਸਤ", "gu": "નમસ્તે",
    "or": "ନମସ୍କାର",
    "kn": "ನಮಸ್ಕಾರ", "ml": "നമസ്കാരം", "si": "ආයුබෝවන්", "bo": "བཀྲ་ཤིས", "tzm": "ⴰⵣⵓⵍ", "sat": "ᱡᱚᱦᱟᱨ", "vi": "Xin chào",
}  # fmt: skip


@pytest.mark.parametrize("language", OWN)
def test_text_in_the_languages_own_script_is_fine(language: str) -> None:
    assert check_script(OWN[language], find_language(language)) == ""
    assert check_script(f"{OWN[language]} 123 USA {OWN[language]}!", find_language(language)) == ""


@pytest.mark.parametrize("language", OWN)
def test_text_in_another_script_is_told(language: str) -> None:
    other = "Привет" if OWN[language].isascii() or language == "vi" else "Hello there"
    message = check_script(other, find_language(language))
    assert find_language(language).name in message and other in message


@pytest.mark.parametrize("text", ["", "123", "?!", "😀", "\n"])
def test_text_without_letters_is_fine(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check_script(text, find_language("ru")) == ""


def test_pieces_by_script() -> None:
    assert is_written_with("▁при", "Cyrl") and is_written_with("▁12!", "Cyrl")
    assert not is_written_with("▁hi", "Cyrl") and not is_written_with("▁приx", "Cyrl")
    assert is_written_with("テキ日", "Jpan") and not is_written_with("テキ", "Hans")
