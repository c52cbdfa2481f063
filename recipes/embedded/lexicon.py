"""The words of the synthetic world: plain lists, written by hand for this project.

`FEELINGS` groups the adjectives of a feeling; the other lists are the everyday words around them. Nothing here is
taken from a corpus. `all_words` gives every word with its forms, for the tokenizer.
"""

from __future__ import annotations

from functools import cache


def words(text: str) -> tuple[str, ...]:
    """Split a list of words, each once. An underscore joins the words of a phrase."""
    return tuple(dict.fromkeys(word.replace("_", " ") for word in text.split()))


FEELINGS: dict[str, str] = {
    "joy": """happy glad cheerful joyful delighted thrilled pleased content satisfied blessed thankful grateful
    hopeful optimistic confident proud relaxed peaceful calm serene relieved excited eager energetic lively vibrant
    alive carefree playful radiant ecstatic elated blissful jolly merry festive triumphant successful productive
    creative brave strong refreshed rested comfortable cozy safe secure welcome appreciated valued special keen
    enthusiastic inspired motivated determined positive upbeat bouncy giddy gleeful fabulous fantastic wonderful
    terrific superb brilliant lucky fortunate amused okay good great better mellow tranquil joyous jubilant overjoyed
    exhilarated uplifted encouraged friendly""",
    "sadness": """sad unhappy sorrowful gloomy miserable depressed dejected despondent downcast down blue low lonely
    alone isolated abandoned rejected unwanted unloved ignored neglected forgotten homesick heartbroken broken crushed
    shattered devastated hurt wounded aching pained grieving mournful tearful weepy hopeless helpless worthless
    useless pathetic inadequate inferior defeated beaten disappointed discouraged disheartened disillusioned regretful
    guilty ashamed embarrassed humiliated remorseful sorry empty hollow numb drained exhausted tired weary listless
    lifeless burdened melancholy dull bleak dreary joyless bad awful terrible horrible rotten lousy bored pessimistic
    tragic unlucky tormented glum forlorn wretched gutted""",
    "anger": """angry mad furious enraged outraged irate livid fuming seething infuriated annoyed irritated aggravated
    exasperated frustrated cross cranky grumpy grouchy irritable touchy bitter resentful spiteful vengeful hostile
    hateful rebellious impatient jealous envious offended insulted wronged cheated betrayed provoked bothered
    disgusted appalled dissatisfied snappy agitated indignant incensed miffed sullen defiant scornful wrathful vexed
    irked combative fierce greedy selfish rude violent""",
    "fear": """afraid scared frightened fearful terrified petrified panicked panicky anxious worried nervous uneasy
    apprehensive alarmed insecure unsafe threatened vulnerable intimidated shaky shaken jittery jumpy tense restless
    paranoid suspicious hesitant reluctant uncertain unsure doubtful wary cautious distressed pressured frantic
    hysterical horrified spooked edgy unnerved daunted uncomfortable cornered trapped haunted stressed shy timid
    strained rattled""",
    "love": """loving caring tender affectionate fond romantic passionate adoring devoted loyal faithful sympathetic
    compassionate gentle sweet lovely beloved loved cherished treasured supportive nurturing longing nostalgic
    sentimental hot delicate kind warm close smitten intimate protective considerate admired soft naughty horny""",
    "surprise": """surprised amazed astonished astounded stunned shocked startled dazed dumbfounded impressed curious
    strange weird odd funny peculiar bewildered baffled puzzled perplexed confused intrigued fascinated awed
    overwhelmed speechless enthralled incredulous staggered unprepared mystified spellbound""",
}
"""Adjectives by feeling. An underscore joins the words of a phrase."""

PEOPLE = words(
    """sister brother mother father mom dad uncle aunt cousin neighbor boss teacher friend roommate husband wife son
    daughter grandmother grandfather grandma grandpa nephew niece coach landlord colleague boyfriend girlfriend
    partner student doctor nurse driver manager best_friend classmate captain baker"""
)

NAMES = words(
    """anna ben carla david emma felix grace henry iris jack kate leo maria nick olivia paul rosa sam tina victor wendy
    zoe omar lina hugo ella max nora oscar ruth tom julia"""
)

THINGS = words(
    """letter phone laptop car bike garden kitchen photo ticket book dress coat song movie game party wedding trip
    meeting interview concert project essay dinner picnic holiday visit report speech lesson email message note
    picture blanket suitcase window fence roof boat tent guitar piano painting poem story recipe cake parcel lamp
    chair sofa camera bag ring watch key wallet jacket sweater backpack notebook calendar map"""
)

PLACES = words(
    """school office hospital station airport market church park beach library museum theater restaurant cafe garage
    basement attic bedroom bathroom hallway street village city forest lake river mountain farm hotel gym bakery
    pharmacy classroom playground bridge harbor island valley"""
)

TIMES = """yesterday | last night | this morning | last week | on monday | on tuesday | on wednesday | on thursday |
on friday | at noon | an hour ago | two days ago | last month | earlier today | in march | in june | last summer |
in the winter | on sunday | a while ago | for days | all week | last year | before lunch | after dinner"""

BODY = words(
    """head face eye eyes ear ears nose mouth lips tongue tooth teeth neck throat shoulder shoulders arm arms hand
    hands finger fingers chest heart back stomach belly hip leg legs knee knees foot feet toe skin hair bone blood
    brain mind soul body voice breath tears smile weight muscle lungs"""
)

FOOD = words(
    """bread butter cheese milk coffee tea water juice wine beer soup salad rice pasta pizza egg eggs apple orange
    banana lemon berry chocolate sugar salt pepper honey cookies cream sandwich chicken fish beef bacon potato
    tomato onion carrot bean beans nut fruit vegetable dessert pie"""
)

ANIMALS = words(
    """dog cat puppy kitten horse bird fish cow sheep goat rabbit mouse spider snake bee bear wolf fox duck"""
)

NOUNS = words(
    """time day week month year hour minute moment morning afternoon evening night today tomorrow weekend season spring
    summer autumn fall winter monday tuesday wednesday thursday friday saturday sunday birthday christmas life world
    death birth age youth childhood past present future beginning end start middle way path road journey step place
    home house room door floor wall bed table desk yard town country state land sea ocean sky sun moon star rain
    snow wind storm weather cloud light dark fire air earth tree flower grass leaf rock stone sand hill man woman
    boy girl child children kid kids baby people person family parents friends men women guy guys lady crowd group
    team class club community society church god lord jesus faith prayer bible spirit angel heaven hell sin grace
    work job career business company customer client office money dollar price cost bill bank debt rent budget
    salary school college university degree grade exam test homework course study research science math history art
    music language word words sentence line page chapter paper article blog post comment reader writer author title
    topic question answer reason idea thought opinion view point fact truth lie secret promise plan goal dream hope
    wish chance choice decision change problem trouble issue matter mistake fault failure success effort attempt
    habit skill talent experience lesson memory memories mood feeling feelings emotion emotions sense love joy anger
    fear sadness surprise sorrow grief rage fury panic worry anxiety stress pain hurt shame guilt pride envy hatred
    disgust pleasure happiness peace trust doubt courage strength weakness energy power control freedom safety
    danger risk help support care attention respect kindness affection passion desire need lust romance kiss hug
    date relationship marriage divorce husband baby pregnancy health illness disease cancer flu fever cold headache
    medicine pill drug surgery treatment therapy therapist exercise diet run walk race sport football basketball
    match win loss score player show tv film scene actor episode series video internet website facebook twitter
    computer machine screen picture news media story novel character hero clothes shirt shoes pants skirt makeup
    style fashion color colour shape size bit lot kind sort type part piece side top bottom front inside outside
    edge corner area space hole number amount rest half pair couple bunch list set order form level degree rate case
    example situation position condition state event occasion experience accident incident fight argument war army
    police law court crime government president election party politics nation culture tradition holiday gift
    present surprise card sleep nap rush bus train plane flight traffic ride drive gas stop sign sound noise silence
    voice laugh cry smell taste touch sight look glance everyone everybody someone somebody anyone anybody nobody
    something anything nothing everything thing things stuff thoughts years days weeks months hours minutes times
    nights words ways hands friends dreams goals plans reasons lives wives stories babies families countries cities
    parties bodies studies memories feet teeth member leader role duty service system process program product
    project quality value purpose meaning result effect impact influence benefit advantage difference similarity
    relation connection contact conversation discussion debate speech statement message response reaction action
    activity behavior attitude approach method technique practice training education knowledge information detail
    record report review test drawing ability attraction atmosphere presence background blogger breakdown burden
    challenge closet comfort commitment confidence confusion crap damn drama depression disappointment distance envy
    faith flaw frustration gratitude hate heartbeat husbands identity imagination insecurity inspiration intention
    interest journal judgment lack limit loneliness mess mirror miracle motivation nerve nightmare obligation
    opportunity outfit patience patient personality perspective phase pressure privilege progress quote regret
    relief remorse routine sake self sex shit shock spot struggle stranger stupidity suicide surroundings sympathy
    tension tendency tragedy universe victim vision wave wonder yoga zone ass butt bitch fool idiot jerk loser mama
    papa darling sweetheart breakfast lunch dinner supper snack meal meat ice"""
)

VERBS = words(
    """accept ache achieve act add admire admit adore agree allow amaze amuse annoy answer apologize appear appreciate
    argue arrive ask assume attend avoid bake bark beg behave believe belong blame blog bother breathe brush call
    calm care carry cause challenge change chase chat check cheer clean climb close collect comfort comment compare
    complain complete concern confess confuse connect consider contact continue control cook count cover crave
    create cry dance decide delight deliver demand deny depend describe deserve desire destroy die disagree
    disappear disappoint discover discuss doubt drag dress drop earn embarrass encourage end enjoy enter escape
    exercise exist expect experience explain explore express face fail fear fill finish fix focus follow force
    frighten fuel gain gather glance greet guess hand happen hate heal help hesitate hope hug hurry ignore imagine
    improve include insist inspire intend invite join joke judge jump kick kiss knock lack land last laugh learn
    lift like listen live look love manage marry matter mention miss move name need notice offer open order overcome
    owe own pack paint panic park pass phone plan plant play please plead point possess post pray prefer prepare
    present press pretend prove promise pull punish push question race rain reach react realize recall receive
    recognize recover refuse regret relate relax rely remain remember remind remove rent repair repeat reply report
    request rescue respect respond rest return reveal ruin rush sail save scare scratch scream search seem serve
    settle share shop shout sigh sign slam slip smell smile smoke sneak sound spill stare start starve stay step
    stop stress stretch struggle study succeed suck suffer suggest support suppose surprise surround survive suspect
    talk taste tempt tend test thank threaten touch trace train travel treat tremble trick trust try turn type use
    visit vomit vote wait walk wander want warn wash waste watch weigh whine whisper wish wonder work worry wrap
    yell"""
)

IRREGULAR = words(
    """be am is are was were been being have has had having do does did done doing go goes went gone going get gets got
    gotten getting make makes made making say says said saying know knows knew known knowing think thinks thought
    thinking take takes took taken taking see sees saw seen seeing come comes came coming find finds found finding
    give gives gave given giving tell tells told telling feel feels felt feeling become becomes became becoming
    leave leaves left leaving put puts putting mean means meant meaning keep keeps kept keeping let lets letting
    begin begins began begun beginning bring brings brought bringing write writes wrote written writing read reads
    reading sit sits sat sitting stand stands stood standing lose loses lost losing pay pays paid paying meet meets
    met meeting run runs ran running set sets setting lead leads led leading speak speaks spoke spoken speaking lie
    lies lay lying grow grows grew grown growing hear hears heard hearing hold holds held holding eat eats ate eaten
    eating drink drinks drank drunk drinking sleep sleeps slept sleeping buy buys bought buying sell sells sold
    selling send sends sent sending build builds built building break breaks broke broken breaking spend spends
    spent spending win wins won winning hurt hurts hurting cut cuts cutting hit hits hitting drive drives drove
    driven driving fly flies flew flown flying fight fights fought fighting fall falls fell fallen falling forget
    forgets forgot forgotten forgetting forgive forgave forgiven forgiving hide hides hid hidden hiding choose
    chooses chose chosen choosing wear wears wore worn wearing teach teaches taught teaching catch catches caught
    catching throw throws threw thrown throwing shake shakes shook shaken shaking wake wakes woke woken waking sing
    sings sang sung singing swim swims swam swum swimming steal steals stole stolen stealing bite bites bit bitten
    biting blow blew blown draw drew drawn drawing ride rode ridden understand understands understood understanding
    rise rises rose risen rising shine shines shone shining shut shuts sink sank sunk strike struck swear swore
    sworn tear tore torn tearing lay laid bleed bled burst cost deal dealt dig dug feed fed freeze froze frozen lend
    lent light lit quit seek sought weep wept wind wound"""
)

FUNCTION = words(
    """a an the this that these those i me my mine myself you your yours yourself he him his himself she her hers
    herself it its itself we us our ours ourselves they them their theirs themselves who whom whose which what when
    where why how and or but nor so yet for because since although though while if unless until whether as than then
    not no of in on at by with about against between into through during before after above below to from up down
    out off over under again further once here there all any both each few more most other another some such only
    own same too very can could will would shall should may might must just also even still already always never
    ever often sometimes usually maybe perhaps really quite rather pretty almost nearly hardly barely simply
    actually probably definitely certainly totally completely absolutely extremely incredibly especially
    particularly finally suddenly slowly quickly quietly recently lately currently somehow somewhere anywhere
    everywhere nowhere anymore anyway away back far near around along across behind beside besides beyond toward
    towards within without upon among amongst despite except like unlike per via every either neither much many
    little less least enough several various plus well now later soon ago today tonight together apart forward
    instead indeed however therefore thus hence otherwise meanwhile i'm i've don't can't won't isn't didn't it's
    that's im ive id ill dont doesnt didnt cant couldnt wouldnt shouldnt isnt arent wasnt werent hasnt havent hadnt
    wont aint youre youve youll theyre theyve hes shes weve its thats theres whats lets gonna wanna gotta kinda
    sorta yeah yes ok okay oh hey hi hello wow lol omg haha ugh please thanks sorry one two three four five six
    seven eight nine ten eleven twelve twenty thirty fifty hundred thousand million first second third next last
    http www href com amp etc pm am re ve ll s t m d n u ur"""
)

ADJECTIVES = words(
    """able actual amazing ancient available average basic big bitter_sweet black blonde blue bloody busy capable
    central certain cheap clear clean closed cold common complete complex constant correct crazy current daily damp
    deep different difficult double dry early easy empty entire equal essential eternal evil exact extra fair
    familiar famous fast few final firm fit flat foreign formal former fresh front full general genuine global
    golden green grey grown guilty hard healthy heavy high holy honest huge human hungry ideal immediate impossible
    independent indoor inner intense internal international internet kind large late lazy left legal light likely
    limited little local long loose loud major married mental mighty minor missing mixed modern moral narrow
    national natural near neat necessary negative new nice normal obvious old open opposite ordinary original outer
    overall painful pale personal physical pink plain political poor possible potential powerful practical pregnant
    present previous primary private professional proper public pure purple quick quiet random rare raw ready real
    reasonable recent red regular religious responsible rough round royal sacred sensitive separate serious severe
    sexual shallow sharp short silent silly similar simple single slight slow small smooth social solid southern
    spare specific spiritual stable standard steady steep straight strict stuck sudden suitable super surprising
    tall teenage thick thin thirsty tight tiny total tough traditional true twisted typical unable unique unknown
    unusual upper upset urban usual vague valid vast violet visible warm wet white whole wide wild wise wooden wrong
    yellow young younger older bigger smaller worse worst best easier harder closer stronger happier sadder longer
    exciting interesting frightening scary annoying boring depressing relaxing exhausting disappointing embarrassing
    frustrating heartbreaking overwhelming amusing touching moving shocking confusing refreshing tiring worrying
    terrifying irritating unbelievable"""
)

QUALITIES = words(
    """contented energized free accomplished clever smart bold invigorated welcomed accepted important valuable
    worthwhile useful helpful charming pretty gorgeous beautiful handsome cute elegant graceful splendid divine
    perfect talented popular rich wealthy privileged honored honoured respected trusting convinced assured reassured
    resolved sincere innocent virtuous generous intelligent entertained ok fine well fearless flawless glamorous
    graced adventurous artistic valiant vital worthy gladdened sunny bright cool complacent delicious dynamic pleasant
    rejuvenated revived renewed restored heartened soothed sociable sure smug thoughtful mellowed untroubled casual
    lonesome unwelcome dismayed mortified lethargic sluggish troubled melancholic somber crappy shitty sick ill unwell
    dirty ugly fat unattractive stupid foolish dumb idiotic lame inept incompetent ineffective insignificant
    unimportant invisible needy victimized punished deprived disadvantaged doomed damaged fake messy moody groggy
    drowsy foggy lost displaced stranded jaded repressed suppressed submissive unfortunate vain weak whiny worn
    resigned shamed disgraced degraded demoralized disturbed anguished tortured suffering hated blamed awkward
    deflated distraught woeful downhearted bereft dispirited apathetic aimless disliked discontented fragile
    ungrateful unfulfilled unsuccessful inhibited testy petty vindictive vicious cruel mean nasty stubborn robbed
    mistreated heartless insincere dangerous savage sarcastic bitchy pissed ticked cheesed riled peeved sour sulky
    hacked distracted rushed unfriendly argumentative malicious contemptuous disdainful disrespected obnoxious
    outspoken rageful bugged galled steamed skeptical fretful hunted defenseless exposed unprotected assaulted abused
    terrorized neurotic phobic dreading cowardly trembling wimpy flustered discomposed unsettled liked wanted
    supported lustful desirable sexy attached infatuated adored hugged kissed warmhearted motherly besotted yearning
    inquisitive wowed stumped ludicrous thunderstruck flabbergasted disoriented"""
)
"""Adjectives that the model does not learn as signs of a feeling."""

ADVERBS = words(
    """so very really quite a_bit rather truly utterly pretty strangely deeply just simply still completely totally
    extremely incredibly slightly terribly absolutely kinda"""
)


@cache
def feelings(name: str) -> tuple[str, ...]:
    """The adjectives of a feeling."""
    return words(FEELINGS[name])


@cache
def times() -> tuple[str, ...]:
    """Adverbials of time."""
    return tuple(" ".join(part.split()) for part in TIMES.split("|"))


def verb_forms(verb: str) -> tuple[str, str, str]:
    """Third person, past and -ing form of a regular verb: `try` → `tries`, `tried`, `trying`."""
    vowels = "aeiou"
    if verb.endswith("y") and verb[-2] not in vowels:
        return verb[:-1] + "ies", verb[:-1] + "ied", verb + "ing"
    third = verb + ("es" if verb.endswith(("s", "x", "z", "ch", "sh", "o")) else "s")
    if verb == "die":
        return third, "died", "dying"
    if verb.endswith("e"):
        return third, verb + "d", (verb if verb.endswith("ee") else verb[:-1]) + "ing"
    short = (
        sum(letter in vowels for letter in verb) == 1
        and len(verb) > 2
        and verb[-1] not in "aeiouwxy"
        and verb[-2] in vowels
    )
    stem = verb + verb[-1] if short or verb in ("control", "regret") else verb
    return third, stem + "ed", stem + "ing"


@cache
def all_words() -> tuple[str, ...]:
    """Every word with its forms, each once, in a fixed order."""
    lists = (FUNCTION, IRREGULAR, PEOPLE, NAMES, THINGS, PLACES, BODY, FOOD, ANIMALS, NOUNS, ADVERBS, ADJECTIVES)
    found = [word for words in (*lists, QUALITIES) for word in words]
    found += [word + "s" for word in (*PEOPLE, *THINGS, *PLACES, *ANIMALS)]
    found += [form for verb in VERBS for form in (verb, *verb_forms(verb))]
    found += [word for name in FEELINGS for word in feelings(name)]
    found += [adverb for word in (*feelings("joy"), *ADJECTIVES) if len(adverb := word + "ly") < 11]
    return tuple(dict.fromkeys(part for word in found for part in word.split()))
