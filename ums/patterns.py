"""The forms in which people state things about themselves and others: two tables, by language.

A form is a relation, how its fact reads, and a pattern that must match a clause. ``o`` is the
object; ``s`` the subject where the clause names one, else it is who speaks. A form is only as
wide as what it means is sure: a statement that is missed is found in its episode all the same,
one that is made up is a lie in memory. Which clauses are looked at at all is ``ums.extract``'s.
"""

# ruff: noqa: E501 - a form is read best on one line

import re
from typing import NamedTuple


class Form(NamedTuple):
    """One way to state one relation."""

    relation: str
    """Empty where the clause itself names it (``r``)."""
    reads: str
    """How the fact reads: ``{s}``, ``{o}``, and ``{r}`` for the relation in words."""
    pattern: re.Pattern[str]
    proper: bool = False
    """Whether the object must be a name or a number: begin with a capital letter or a digit."""


_END = (
    r"(?=\s+(?:with|and|but|since|because|so|now|where|which|who|when|while|near|these days|"
    r"right now|at the moment|again|today|too|though|although|for|as well|by the way|btw|until|"
    r"after|before|anymore|at home|in the|last|next|this|yesterday|ago|during|in (?:19|20)\d\d|on \w+day)\b|\s*[,;:!—–()]|(?<!St)(?<!Mt)(?<!Dr)\.(?:\s|$)|\s+-\s|\s*$)"
)
_O = r"(?P<o>[^\s,;:.!?()\"“”][^,;:!?()\"“”\n]{0,79}?)" + _END
_REST = r"(?P<o>\S.{2,300}?)\s*[.!]*$"
_NAME = r"[A-Z][\w'’-]*(?: (?:(?:van|von|de|da|del|bin|al|of|the|and) )?[A-Z][\w'’-]*){0,3}"
_WHO = rf"(?P<s>(?:the |The )?(?:{_NAME}))"
_I = (
    r"(?:^|[,;]\s*|\b(?:and|but|so|because|well|that|actually|also|yes|hi|hello|hey)[,!]?\s+)[Ii]\b"
)
_AM = _I + r"(?:\s*['’]m|\s+am)"
_NOW = r"(?:\s+(?:now|currently|still|already|just|really|actually|both|also|always|originally))*"
_MY = r"(?:^|[,;]\s*|\b(?:and|but|because|that|by the way|yes|hi|hello|hey)[,!]?\s+)[Mm]y"
_AT = r"(?:^|[,;]\s*|\b(?:that|and|also|so)\s+)"

KIN = [
    "sister",
    "brother",
    "mother",
    "father",
    "mom",
    "mum",
    "dad",
    "wife",
    "husband",
    "son",
    "daughter",
    "cousin",
    "aunt",
    "uncle",
    "niece",
    "nephew",
    "grandmother",
    "grandfather",
    "girlfriend",
    "boyfriend",
    "partner",
    "fiancee",
    "fiance",
    "roommate",
    "boss",
    "manager",
    "colleague",
    "teacher",
    "doctor",
    "dentist",
    "therapist",
    "neighbor",
    "neighbour",
    "dog",
    "cat",
    "parrot",
    "rabbit",
    "hamster",
    "horse",
    "pet",
    "company",
    "team",
    "project",
    "startup",
    "best_friend",
]
_KIN = "|".join(word.replace("_", " ") for word in KIN)
ATTRIBUTES = [
    "email",
    "email_address",
    "phone",
    "phone_number",
    "birthday",
    "date_of_birth",
    "age",
    "address",
    "home_address",
    "timezone",
    "time_zone",
    "nationality",
    "hometown",
    "native_language",
    "mother_tongue",
    "blood_type",
    "shoe_size",
    "username",
    "github_handle",
    "website",
    "nickname",
    "full_name",
    "last_name",
    "first_name",
    "job",
    "job_title",
    "employer",
    "occupation",
    "profession",
    "major",
    "star_sign",
    "zodiac_sign",
    "deadline",
    "flight_number",
    "favou?rite_[a-z]+",
    "preferred_[a-z]+",
    "default_[a-z]+",
    "wedding_anniversary",
    "anniversary",
]
_ATTRIBUTES = "|".join(word.replace("_", " ") for word in ATTRIBUTES)
_TRADE = (
    r"(?:engineer|developer|programmer|doctor|nurse|teacher|lawyer|student|designer|writer|"
    r"journalist|chef|cook|pilot|scientist|researcher|professor|accountant|architect|artist|"
    r"musician|photographer|dentist|pharmacist|plumber|electrician|carpenter|farmer|translator|"
    r"manager|consultant|analyst|librarian|veterinarian|therapist|psychologist|economist|editor|"
    r"mechanic|baker|barista|paramedic|firefighter|police officer|social worker)"
)
_TRAIT = (
    r"(?:vegetarian|vegan|pescatarian|left-handed|right-handed|color-?blind|colour-?blind|"
    r"diabetic|lactose intolerant|gluten intolerant|coeliac|celiac|asthmatic|deaf|blind|"
    r"dyslexic|pregnant|divorced|widowed|retired|unemployed|self-employed|single|married|engaged)"
)
_TOO_VAGUE = r"(?!(?:it|that|this|these|those|you|your|how|what|when|where|him|her|them|us|me)\b)"


def _form(relation: str, reads: str, pattern: str, *, proper: bool = False) -> Form:
    return Form(relation, reads, re.compile(pattern), proper)


ENGLISH = (
    _form(
        "lives_in",
        "{s} lives in {o}",
        rf"{_I}{_NOW}\s+(?:live|reside)\s+in\s+{_O}",
        proper=True,
    ),
    _form("lives_in", "{s} lives in {o}", rf"{_AM}{_NOW}\s+living\s+in\s+{_O}", proper=True),
    _form(
        "lives_in",
        "{s} lives in {o}",
        rf"{_I}(?:['’]ve|\s+have)?{_NOW}\s+(?:moved|relocated)\s+(?:from\s+.{{1,40}}?\s+)?to\s+{_O}",
        proper=True,
    ),
    _form(
        "born_in",
        "{s} was born in {o}",
        rf"{_I}\s+was\s+born\s+(?:and\s+raised\s+)?in\s+{_O}",
        proper=True,
    ),
    _form("born_on", "{s} was born on {o}", rf"{_I}\s+was\s+born\s+on\s+{_O}", proper=True),
    _form("comes_from", "{s} comes from {o}", rf"(?:{_AM}|{_I}\s+come){_NOW}\s+from\s+{_O}", proper=True),
    _form("works_at", "{s} works at {o}", rf"{_I}{_NOW}\s+work\s+(?:at|for)\s+{_O}", proper=True),
    _form("works_at", "{s} works at {o}", rf"{_AM}{_NOW}\s+working\s+(?:at|for)\s+{_O}", proper=True),
    _form(
        "works_at",
        "{s} works at {o}",
        rf"{_I}(?:['’]ve|\s+have)?{_NOW}\s+(?:started\s+(?:working\s+)?at|joined)\s+{_O}",
        proper=True,
    ),
    _form("job_title", "{s} works as {o}", rf"{_I}{_NOW}\s+work\s+as\s+(?:an?\s+)?{_O}"),
    _form(
        "job_title",
        "{s} works as {o}",
        rf"{_AM}{_NOW}\s+an?\s+(?P<o>(?:[\w-]+\s+){{0,3}}{_TRADE})\b",
    ),
    _form("studies_at", "{s} studies at {o}", rf"{_I}{_NOW}\s+study\s+(?:[\w ]{{1,30}}\s+)?at\s+{_O}", proper=True),
    _form("studies", "{s} studies {o}", rf"{_I}{_NOW}\s+(?:study|major\s+in)\s+(?!at\b){_O}"),
    _form("name", "{s} is called {o}", rf"{_MY}\s+name\s+is\s+(?P<o>{_NAME})", proper=True),
    _form("name", "{s} is called {o}", rf"{_AM}\s+(?:called|named)\s+(?P<o>{_NAME})", proper=True),
    _form(
        "preferred_name",
        "{s} wants to be called {o}",
        r"^(?:[Pp]lease,?\s+)?(?:just\s+)?[Cc]all\s+me\s+(?P<o>[A-Z][\w'’-]*)(?=\s*[,.!]|\s*$)",
        proper=True,
    ),
    _form("", "{s}'s {r} is called {o}", rf"{_MY}\s+(?P<r>{_KIN})\s+is\s+(?:called|named)\s+(?P<o>{_NAME})"),
    _form("", "{s}'s {r} is called {o}", rf"{_MY}\s+(?P<r>{_KIN})['’]s\s+name\s+is\s+(?P<o>{_NAME})"),
    _form(
        "",
        "{s}'s {r} is called {o}",
        rf"{_I}(?:['’]ve\s+got|\s+have(?:\s+got)?)\s+(?:a|an|one)\s+(?:\w+\s+)?(?P<r>{_KIN})\s+"
        rf"(?:called|named|whose\s+name\s+is)\s+(?P<o>{_NAME})",
    ),
    _form("", "{s}'s {r} is {o}", rf"{_MY}\s+(?P<r>{_ATTRIBUTES})\s+is\s+{_TOO_VAGUE}(?P<o>\S[^,;!?\n]{{0,119}}?)(?=[,;!]|\.?\s*$|\.\s|\s+(?:and|but)\b)"),
    _form("age", "{s} is {o} years old", rf"{_AM}{_NOW}\s+(?P<o>\d{{1,3}})(?:\s+years\s+old|\s*$|\s*[,.!])"),
    _form("allergic_to", "{s} is allergic to {o}", rf"{_AM}{_NOW}(?:\s+(?:severely|deadly|very))?\s+allergic\s+to\s+{_O}"),
    _form("married_to", "{s} is married to {o}", rf"{_AM}{_NOW}\s+married\s+to\s+(?P<o>{_NAME})", proper=True),
    _form("is", "{s} is {o}", rf"{_AM}{_NOW}\s+(?:an?\s+)?(?P<o>{_TRAIT})(?=\s*[,.!;]|\s*$|\s+(?:and|but|so|since)\b)"),
    _form("likes", "{s} likes {o}", rf"{_I}{_NOW}(?:\s+absolutely)?\s+(?:like|love|enjoy|adore)\s+{_TOO_VAGUE}{_O}"),
    _form("dislikes", "{s} dislikes {o}", rf"{_I}{_NOW}(?:\s+absolutely)?\s+(?:hate|dislike|detest|loathe)\s+{_TOO_VAGUE}{_O}"),
    _form("prefers", "{s} prefers {o}", rf"{_I}{_NOW}\s+prefer\s+{_TOO_VAGUE}{_O}"),
    _form("speaks", "{s} speaks {o}", rf"{_I}{_NOW}\s+speak\s+(?:fluent\s+)?(?P<o>[A-Z][a-z]+(?:(?:,|\s+and|,\s+and)\s+[A-Z][a-z]+){{0,5}})", proper=True),
    _form("plays", "{s} plays {o}", rf"{_I}{_NOW}\s+play\s+{_TOO_VAGUE}(?:the\s+)?{_O}"),
    _form("drives", "{s} drives {o}", rf"{_I}{_NOW}\s+drive\s+(?P<o>an?\s+[\w -]{{2,40}}?){_END}"),
    _form("has", "{s} has {o}", rf"{_I}(?:['’]ve\s+got|\s+have(?:\s+got)?)\s+(?P<o>(?:an?|one|two|three|four|five|six|\d+)\s+(?:\w+\s+)?(?:{_KIN}|kid|child|children|sibling)s?)(?=\s*[,.!;]|\s*$|\s+(?:and|but|so)\b)"),
    # others
    _form("lives_in", "{s} lives in {o}", rf"{_AT}{_WHO}{_NOW}\s+(?:lives|resides)\s+in\s+{_O}", proper=True),
    _form("lives_in", "{s} lives in {o}", rf"{_AT}{_WHO}(?:\s+has)?{_NOW}\s+(?:moved|relocated)\s+to\s+{_O}", proper=True),
    _form("works_at", "{s} works at {o}", rf"{_AT}{_WHO}{_NOW}\s+works\s+(?:at|for)\s+{_O}", proper=True),
    _form("works_at", "{s} works at {o}", rf"{_AT}{_WHO}(?:\s+has)?{_NOW}\s+(?:started\s+(?:working\s+)?at|joined)\s+{_O}", proper=True),
    _form("job_title", "{s} works as {o}", rf"{_AT}{_WHO}{_NOW}\s+works\s+as\s+(?:an?\s+)?{_O}"),
    _form("born_in", "{s} was born in {o}", rf"{_AT}{_WHO}\s+was\s+born\s+in\s+{_O}", proper=True),
    _form("married_to", "{s} is married to {o}", rf"{_AT}{_WHO}\s+is\s+married\s+to\s+(?P<o>{_NAME})", proper=True),
    _form("located_in", "{s} is in {o}", rf"{_AT}{_WHO}\s+is\s+(?:located|based|headquartered)\s+in\s+{_O}", proper=True),
    _form("reports_to", "{s} reports to {o}", rf"{_AT}{_WHO}{_NOW}\s+reports\s+to\s+(?P<o>{_NAME})", proper=True),
    _form("", "{s}'s {r} is {o}", rf"{_AT}{_WHO}['’]s\s+(?P<r>{_ATTRIBUTES}|manager|boss)\s+is\s+{_TOO_VAGUE}(?P<o>\S[^,;!?\n]{{0,119}}?)(?=[,;!]|\.?\s*$|\.\s|\s+(?:and|but)\b)"),
    _form("", "{s}'s {r} is {o}", rf"{_AT}[Tt]he\s+(?P<r>deadline|due date|capital|budget|price|status|owner)\s+(?:for|of)\s+(?P<s>[\w'’ -]{{2,60}}?)\s+is\s+{_TOO_VAGUE}(?P<o>\S[^,;!?\n]{{0,119}}?)(?=[,;!]|\.?\s*$|\.\s|\s+(?:and|but)\b)"),
)  # fmt: skip

SPOKEN = (
    _form("decided", "{s} decided {o}", r"(?:^|[,;]\s*|\b(?:and|so|today|yesterday)\s+)[Ww]e(?:['’]ve|\s+have)?(?:\s+(?:just|finally|all|now))*\s+(?:decided|agreed)\s+(?P<o>(?:that|to|on|against)\s+\S.{2,300}?)\s*[.!]*$"),
    _form("wants_from_now_on", "{s} wants from now on: {o}", rf"^(?:[Pp]lease,?\s+)?[Ff]rom\s+now\s+on,?\s+{_REST}"),
    _form("wants_from_now_on", "{s} wants from now on: {o}", r"^(?P<o>(?:[Pp]lease|[Aa]lways|[Uu]se|[Aa]nswer|[Ss]peak|[Ww]rite|[Rr]eply|[Cc]all|[Ss]end|[Aa]ddress|[Kk]eep|[Nn]ever)\b.{2,300}?),?\s+from\s+now\s+on\s*[.!]*$"),
    _form("asked_to_remember", "{s} asked to remember: {o}", rf"^(?:[Pp]lease,?\s+|[Aa]lso,?\s+)?(?:[Rr]emember|[Kk]eep\s+in\s+mind|[Nn]ote|(?:[Dd]on['’]t|[Dd]o\s+not)\s+forget)(?:\s+that\b|\s*:)\s*{_REST}"),
)  # fmt: skip
"""What is said to be kept, in whatever words. What it says is looked at by the table above."""

_HAN = r"[^，,。；;：:！!？?、\s\"“”「」（）()]"
_ZO = rf"(?P<o>{_HAN}{{1,30}}?)(?=了?(?:[，,。；;！!、\s]|$))"
_WO = r"(?:^|[，,；;]|而且|但是|因为|所以|现在|你好[，,]?)我"
_ZNOW = r"(?:现在|目前|一直|已经|刚刚|刚|还|就|都|也|最近|真的|其实)*"
_ZWHO = r"(?:^|[，,；;])(?P<s>(?!我|你|您|他|她|它|谁|这|那|大家|如)[一-鿿A-Za-z·]{2,12}?)"
_ZKIN = "妹妹|姐姐|哥哥|弟弟|妈妈|母亲|爸爸|父亲|妻子|太太|老婆|丈夫|先生|老公|儿子|女儿|女朋友|男朋友|老板|经理|老师|同事|室友|狗|猫|公司|项目"
_ZATTRIBUTES = "生日|邮箱|电子邮件|电话|电话号码|手机号|手机号码|地址|年龄|职业|职位|家乡|母语|血型|网名|昵称|国籍|微信号"

CHINESE = (
    _form("lives_in", "{s}住在{o}", rf"{_WO}{_ZNOW}(?:住在|居住在|定居在|生活在){_ZO}"),
    _form("lives_in", "{s}住在{o}", rf"{_WO}{_ZNOW}(?:搬到|搬去)了?{_ZO}"),
    _form("works_at", "{s}在{o}工作", rf"{_WO}{_ZNOW}在(?P<o>{_HAN}{{1,30}}?)(?:工作|上班|任职)"),
    _form("studies_at", "{s}在{o}上学", rf"{_WO}{_ZNOW}在(?P<o>{_HAN}{{1,30}}?)(?:上学|读书|念书|就读)"),
    _form("job_title", "{s}的职业是{o}", rf"{_WO}{_ZNOW}是(?:一名|一个|一位|名)(?P<o>{_HAN}{{0,10}}?(?:工程师|医生|老师|教师|律师|护士|学生|设计师|作家|记者|厨师|研究员|教授|会计|程序员|司机|翻译|演员|画家))"),
    _form("comes_from", "{s}来自{o}", rf"{_WO}{_ZNOW}来自{_ZO}"),
    _form("comes_from", "{s}是{o}人", rf"{_WO}{_ZNOW}是(?P<o>(?!个|好|坏|一|大|老|别|男|女|名|新|本)[一-鿿]{{2,6}}?)人(?=[，,。；;！!\s]|$)"),
    _form("born_in", "{s}出生在{o}", rf"{_WO}(?:出生在|出生于|生在|生于){_ZO}"),
    _form("name", "{s}叫{o}", rf"{_WO}(?:名叫|叫|的名字是|的名字叫)(?P<o>[一-鿿A-Za-z·]{{2,12}}?)(?=[，,。；;！!\s]|$)"),
    _form("", "{s}的{r}叫{o}", rf"{_WO}的?(?P<r>{_ZKIN})(?:的名字)?(?:叫|名叫|名字叫|名字是)(?P<o>[一-鿿A-Za-z·]{{1,12}}?)(?=[，,。；;！!\s]|$)"),
    _form("", "{s}的{r}叫{o}", rf"{_WO}(?:有|养了|养)(?:一只|一条|一个|个|只)(?P<r>{_ZKIN})[，,]?(?:它)?(?:名叫|叫|名字叫)(?P<o>[一-鿿A-Za-z·]{{1,12}}?)(?=[，,。；;！!\s]|$)"),
    _form("", "{s}的{r}是{o}", rf"{_WO}的?(?P<r>{_ZATTRIBUTES})是(?P<o>[^，,。；;！!？?\n]{{1,60}}?)(?=[，,。；;！!\s]|$)"),
    _form("age", "{s}{o}岁", rf"{_WO}(?:今年|现在)?(?P<o>\d{{1,3}}|[一二三四五六七八九十百]{{1,5}})岁"),
    _form("allergic_to", "{s}对{o}过敏", rf"{_WO}{_ZNOW}对(?P<o>{_HAN}{{1,20}}?)(?:严重)?过敏"),
    _form("likes", "{s}喜欢{o}", rf"{_WO}{_ZNOW}(?:很|非常|最|特别|超级|比较|更|挺)?(?:喜欢|热爱|喜爱)(?!你|您|他|她|它|这|那){_ZO}"),
    _form("dislikes", "{s}讨厌{o}", rf"{_WO}{_ZNOW}(?:很|非常|最|特别|超级|比较)?(?:讨厌|厌恶)(?!你|您|他|她|它|这|那){_ZO}"),
    _form("speaks", "{s}会说{o}", rf"{_WO}{_ZNOW}会说(?P<o>[一-鿿、和]{{1,20}}(?:语|文|话))"),
    _form("is", "{s}是{o}", rf"{_WO}{_ZNOW}(?:是个?)?(?P<o>素食主义者|素食者|左撇子|色盲|糖尿病患者|乳糖不耐受)"),
    _form("lives_in", "{s}住在{o}", rf"{_ZWHO}{_ZNOW}(?:住在|居住在|定居在){_ZO}"),
    _form("works_at", "{s}在{o}工作", rf"{_ZWHO}{_ZNOW}在(?P<o>{_HAN}{{1,30}}?)(?:工作|上班|任职)"),
    _form("born_in", "{s}出生在{o}", rf"{_ZWHO}(?:出生在|出生于){_ZO}"),
    _form("", "{s}的{r}是{o}", rf"{_ZWHO}的(?P<r>{_ZATTRIBUTES}|经理|老板|截止日期|首都)是(?P<o>[^，,。；;！!？?\n]{{1,60}}?)(?=[，,。；;！!\s]|$)"),
)  # fmt: skip

_ZREST = r"(?P<o>\S.{1,200}?)[。！!]*$"
CHINESE_SPOKEN = (
    _form("decided", "{s}决定{o}", rf"(?:^|[，,；;])(?:今天|昨天|最后|最终)?我们(?:已经|最终|一致)?(?:决定|商定|约定|同意)了?[：:，,]?{_ZREST}"),
    _form("wants_from_now_on", "{s}要求今后：{o}", rf"^(?:请)?(?:从现在起|从现在开始|从今以后|从今往后|今后|以后请|以后都请)[，,]?{_ZREST}"),
    _form("asked_to_remember", "{s}要求记住：{o}", rf"^(?:请|请你|帮我|麻烦)?(?:记住|记得|记一下|别忘了|不要忘记)[：:，,]?{_ZREST}"),
)  # fmt: skip

CHINESE_RELATIONS = {
    "妹妹": "sister", "姐姐": "sister", "哥哥": "brother", "弟弟": "brother", "妈妈": "mother",
    "母亲": "mother", "爸爸": "father", "父亲": "father", "妻子": "wife", "太太": "wife",
    "老婆": "wife", "丈夫": "husband", "先生": "husband", "老公": "husband", "儿子": "son",
    "女儿": "daughter", "女朋友": "girlfriend", "男朋友": "boyfriend", "老板": "boss",
    "经理": "manager", "老师": "teacher", "同事": "colleague", "室友": "roommate", "狗": "dog",
    "猫": "cat", "公司": "company", "项目": "project", "手机号": "phone", "手机号码": "phone",
    "电话号码": "phone", "家乡": "hometown", "母语": "native_language", "血型": "blood_type",
    "网名": "nickname", "昵称": "nickname", "国籍": "nationality", "微信号": "wechat",
    "截止日期": "deadline", "首都": "capital",
}  # fmt: skip
"""Kinship and attributes by their relation; the others ``ums.facts`` knows."""

# --- what no statement of fact has in it

QUESTION = re.compile(
    r"[?？]\s*[\"”’)]*$|(?:吗|呢|么)[。！!]?$|"
    r"^(?:(?:and|but|so|or)\s+)?(?:what|where|who|whom|whose|why|how|which|when)\b|"
    r"^(?:do|does|did|is|are|was|were|can|could|would|should|shall|will|have|has|had|am|guess)\s+"
    r"(?:i|you|he|she|it|we|they|my|your|the|there|what|where|who)\b|"
    r"什么|哪里|哪儿|是否|为什么|怎么|谁知道|多少|几岁",
    re.IGNORECASE,
)
NEGATION = re.compile(
    r"\b(?:not|never|no|nobody|none|neither|nor|cannot|without|hardly|barely|stopped|quit|left(?!-)|"
    r"former|formerly|previously|once|except|instead\s+of|ain[’']?t)\b"
    r"|n['’]t\b|\bused\s+to\b|\bno\s+longer\b|\bex-"
    r"|不|没|(?<![特性类分级区])别(?!墅|人)|从未|并非|绝非|未曾|曾经|以前|过去|之前|原来|本来|假的|错误",
    re.IGNORECASE,
)
DENIAL = re.compile(
    r"\b(?:not\s+true|untrue|false|wrong|a\s+lie|denied|deny|denies|nobody|neither|nor)\b"
    r"|n['’]t\s+(?:true|think|believe|say|mean)\b|不是真的|并不",
    re.IGNORECASE,
)
DOUBT = re.compile(
    r"(?i:\b(?:if|unless|whether|suppose|supposing|imagine|imagining|assume|assuming|pretend|"
    r"pretending|hypothetically|wish|would|could|might|should|maybe|perhaps|probably|possibly|"
    r"seems?|seemed|apparently|supposedly|allegedly|rumou?r|hope|hopes|hoping|dreamed|dreamt|dream|"
    r"guess|almost|nearly|someday|one\s+day|considering|planning|plan|intend|want\s+to|thinking|"
    r"going\s+to|about\s+to|lets?\s+say|for\s+example|e\.g|as\s+though|feels?\s+like|"
    r"until\s+recently|in\s+case|otherwise|"
    r"in\s+(?:the|my|this|a|that|his|her)\s+(?:story|dream|novel|book|game|movie|film|play|song|"
    r"script|scene|role|role-?play|poem|joke))\b|['’]d\b|['’]ll\b|\blet['’]s\b)|\b(?:will|may)\b"
    r"|如果|假如|要是|假设|倘若|万一|若|可能|也许|大概|或许|好像|似乎|希望|想要|打算|计划|差点|"
    r"将来|将要|会不会|幻想|梦见|梦到|比如|例如|小说里|小说中|电影里|故事里|游戏里|角色|扮演",
)
REPORTED = re.compile(
    r"[\"“”«»「」『』]|(?:^|\s)['‘](?=\w)|^\s*>|```"
    r"|\b(?:said|says|saying|say|told|tells|claims?|claimed|thinks?|thought|believes?|believed|"
    r"according\s+to|asked|asks|wrote|writes|heard|reads|reportedly|quote|quoting|insists?|"
    r"insisted|swears?|swore|joked|lied|pretends|tweeted|posted|wonder|wondered|lyrics)\b"
    r"|(?<![会小])说(?!明)|声称|(?<![名职昵简])称(?!呼)|据说|听说|认为|觉得|以为|告诉|引用|写道|(?<!顾)问(?!题)",
    re.IGNORECASE,
)
IRONY = re.compile(
    r"\b(?:lol|lmao|rofl|(?:ha){2,}|jk|just\s+kidding|kidding|yeah,?\s+right|sarcasm|irony|"
    r"as\s+if|in\s+your\s+dreams|april\s+fools?|just\s+joking|joking)\b|(?:^|\s)/s\b|[;][-]?\)"
    r"|[😉🙃😏🙄🤪😜]|^(?:sure|oh\s+sure|yeah|right|oh),?\s+and\s+i\b"
    r"|开玩笑|才怪|呵呵|反话|逗你|骗你",
    re.IGNORECASE,
)
SECRET = re.compile(
    r"\b(?:password|passphrase|passcode|pin\s+code|secret\s+key|api\s+key|private\s+key|token|"
    r"credit\s+card|cvv|ssn|social\s+security)\b|密码|口令|密钥|银行卡|信用卡",
    re.IGNORECASE,
)
