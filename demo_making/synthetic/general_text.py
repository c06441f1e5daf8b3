"""General English sentences written by a grammar: every word list and template is ours (Apache-2.0,
as the repository).

`sentence(rng)` draws one lower-case sentence without punctuation. About 1,700 words; a fifth of the
sentences speak numbers, and some are plain word strings, so that a model learns sounds and not the
grammar.
"""

from __future__ import annotations

import random
import re

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

WORDS: dict[str, list[str]] = {
    key: text.split()
    for key, text in {
        "name": """alice anna arthur ben betty brian carl carol charles chris clara daniel david
        diana donald edward ellen emma eric
        frank fred george grace hannah harry helen henry irene jack james jane jennifer jim joan
        john joseph julia karen kate kevin
        laura lisa louis lucy margaret maria mark martin mary michael nancy nick oliver oscar paul
        peter philip rachel richard
        robert rose ruth sam sarah simon sophie steven susan thomas tim tom victor walter
        william""",
        "person": """actor artist aunt author baker barber boy brother builder butcher captain
        carpenter chef child clerk coach cook cousin
        customer dancer daughter dentist director doctor driver editor engineer expert farmer father
        fisherman friend gardener girl
        grandfather grandmother guard guest hunter husband judge king lady lawyer leader maid man
        manager mayor mechanic merchant minister
        mother musician neighbour nephew niece nurse officer owner painter pilot player poet
        policeman porter president priest prince
        prisoner professor queen reporter sailor scholar scientist secretary servant shopkeeper
        singer sister soldier son stranger
        student surgeon tailor teacher thief tourist traveller uncle visitor waiter widow wife
        witness woman worker writer""",
        "animal": """ant bear bee bird bull butterfly calf camel cat chicken cow crow deer dog
        donkey duck eagle elephant fish fly fox frog
        goat goose hawk hen horse kitten lamb lion monkey mouse owl ox parrot pig pigeon pony puppy
        rabbit rat robin seal sheep snake
        spider squirrel swan tiger turtle whale wolf worm""",
        "food": """apple apricot bacon banana bean beef biscuit bread breakfast broth butter cabbage
        cake candy carrot cheese cherry chocolate
        coffee cookie corn cream cucumber dinner egg fruit garlic grape ham honey ice jam juice
        lemon lunch meat melon milk mushroom
        mustard nut oil olive onion orange pancake pasta pastry peach pear pepper pie plum pork
        potato pudding rice salad salmon salt
        sandwich sauce sausage soup spinach steak stew strawberry sugar supper syrup tea toast
        tomato turkey vinegar water wine""",
        "thing": """album alarm anchor arrow axe badge bag ball balloon bandage banner barrel basket
        bath battery beard bed bell belt bench
        bicycle blanket board boat bolt bone book boot bottle bow bowl box bracelet branch brick
        broom brush bucket button cabinet cable
        camera candle cane canvas cap card carpet cart case chain chair chalk chest clock cloth coat
        coin collar comb computer cord
        cradle crown cup cupboard curtain cushion desk diamond dish doll door drawer dress drill
        drum engine envelope fan feather fence
        flag flower fork frame furniture gate gift glass glove glue gold guitar gun hammer handle
        hat heater helmet hook iron jacket jar
        jewel jug kettle key keyboard knife ladder lamp lantern leaf leather letter lid lock log
        machine magazine map mask mat match
        medal medicine mirror money motor nail needle net newspaper note oven package paint pan
        paper parcel pen pencil phone photograph
        piano picture pillow pin pipe plate pocket poster pot present printer pump purse radio rail
        razor ribbon ring rocket roof rope
        rug sack saddle sail scarf scissors screen seat shade sheet shelf shell shield ship shirt
        shoe shovel sign silver sink skirt
        soap sock sofa spade spoon spring stamp statue stick stone stool stove string suit suitcase
        sweater sword table tank tape
        telephone tent ticket tie tool torch towel toy tractor train tray trousers trumpet tube
        umbrella uniform vase vest violin wagon
        wallet watch wheel whistle window wire wood wool""",
        "place": """airport attic bakery balcony bank barn basement bathroom bay beach bedroom
        border bridge cabin camp canal castle cathedral cave
        cellar cemetery church cinema city cliff coast college corner corridor cottage country court
        desert ditch dock factory farm
        field forest fort fountain garage garden gallery ground hall harbour highway hill hospital
        hotel house inn island jail jungle
        kitchen lake library lighthouse market meadow mill mine mountain museum nursery ocean office
        orchard palace park path pier plain
        platform playground pond pool port prison pub railway ranch restaurant river road room
        school sea shed shop square stable stadium
        stage station store street studio swamp temple theatre tower town tunnel university valley
        village wall warehouse well yard zoo""",
        "abstract": """accident action advantage advice age agreement answer argument art attack
        attempt attention balance battle beauty beginning
        behaviour belief blame business care cause chance change choice comfort concert condition
        conversation cost courage crime
        culture damage danger death debate debt decision defence degree delay demand detail
        difference difficulty discovery disease
        distance doubt dream duty economy education effect effort election emotion energy error
        event evidence example exercise
        experience experiment explanation failure faith fashion fault favour fear feeling fight
        finish flood freedom future game goal
        government habit harm health history holiday hope hunger idea illness industry influence
        information insurance interest
        invention invitation job journey joke joy judgement justice knowledge language laughter law
        lesson level lie life limit
        literature loss love luck marriage meaning measure meeting memory message method mistake
        moment mood movement murder music
        mystery nation nature need noise number offer operation opinion opportunity order pain party
        patience peace permission plan
        pleasure poem policy population position poverty power practice prayer pressure price pride
        problem process product profit
        progress promise proof property protest purpose quality quarrel question race reason record
        religion report request respect
        rest result revenge reward rhythm right risk role rule sadness safety sale scene science
        search season secret sense service
        shadow shame shape shock sickness silence situation size skill sleep society solution song
        sorrow sound space speech speed
        spirit sport story strength struggle style success surprise system talent task taste tax
        theory thought threat title trade
        tradition traffic treatment trial trick trip trouble truth value victory view violence visit
        voice vote wage war warmth
        weakness wealth weight wisdom wish word work world worry youth""",
        "adjective": """able absent active afraid alive alone ancient angry anxious ashamed awake
        awful bad bare beautiful big bitter black blind
        blue bold brave brief bright broad broken brown busy calm careful careless cheap cheerful
        clean clear clever cold comfortable
        common complete complex cool correct crazy cruel curious curly dangerous dark dead deaf dear
        deep delicate delicious different
        difficult dirty dry dull dusty eager early easy elegant empty equal evil excellent exciting
        expensive fair faithful false famous
        fancy fast fat final fine firm flat foolish foreign free fresh friendly full funny generous
        gentle glad golden good grand grateful
        great green grey guilty handsome happy hard healthy heavy helpful high hollow holy honest
        hot huge humble hungry ideal important
        impossible innocent jealous keen kind large late lazy light likely little local lonely long
        loose loud lovely low lucky mad
        married mean mild modern narrow nasty natural neat necessary nervous new nice noble normal
        odd official old open ordinary pale
        patient perfect pink plain pleasant polite poor popular possible precious pretty private
        proper proud public pure purple quick
        quiet rapid rare raw ready real recent red regular rich ripe rough round royal rude sad safe
        scared secret serious severe
        sharp short shy sick silent silly similar simple single slight slow small smart smooth
        social soft solid sore special square
        steady steep stiff strange strict strong stupid sudden sunny sweet tall tame tender terrible
        thick thin tight tiny tired total
        tough true ugly unusual urgent useful useless usual valuable warm weak wealthy weird wet
        white whole wicked wide wild willing
        wise wonderful wooden worse worst wrong yellow young""",
        "verb_past": """accepted admired answered asked attacked baked blamed borrowed bought broke
        brought built burned called carried
        caught changed chased checked chose cleaned climbed closed collected cooked copied counted
        covered crossed cut delivered
        described designed destroyed discovered discussed dragged drew dropped earned enjoyed
        examined expected explained feared fed felt
        finished fixed folded followed forgot found gave grabbed guarded guessed hated heard held
        helped hid hit hunted hurt ignored
        improved invented invited joined kept kicked killed kissed knew knocked learned left lifted
        liked lit loaded locked lost loved
        made measured mentioned met missed mixed moved noticed obtained opened ordered owned packed
        paid painted passed picked placed
        planned planted played pleased poured praised prepared preferred pressed printed promised
        protected proved pulled punished
        pushed reached read received recognised recorded refused remembered removed repaired
        repeated replaced reported rescued returned
        saved saw searched selected sent served shared shook shot showed shut signed smelled sold
        spoiled spread started stole stopped
        stored studied suggested supported taught tested threw tied took touched trained trusted
        turned understood used visited wanted
        warned washed wasted watched welcomed wiped won wore wrapped wrote""",
        "verb": """accept admire answer ask avoid bake become begin believe bend blow borrow break
        bring build burn buy call carry catch
        change chase check choose clean climb close collect come compare complain consider continue
        control cook copy count cover
        create cross cry cut dance decide defend deliver deny describe design destroy die dig
        discover discuss divide draw drink
        drive drop eat encourage enjoy enter escape examine exist expect explain fail fall feed feel
        fight fill find finish fit fix
        float fly fold follow force forget forgive gather get give go grow guess hang happen hate
        hear help hide hold hurry hurt
        imagine improve include increase invent invite join jump keep kick know laugh lead learn
        leave lend let lift like listen live
        look lose love make manage mean measure meet melt mend mention mix move notice obey observe
        open order own pack paint pay
        perform pick plant play point pour practise prefer prepare pretend prevent produce promise
        protect prove provide pull push put
        reach read realise receive recognise reduce refuse remain remember remind remove repair
        repeat replace reply rescue return ride
        rise roll run save say search see seem select sell send serve set settle shake share shine
        shoot shout show shut sing sit sleep
        slip smell smile solve speak spell spend stand stay steal stop study succeed suffer suggest
        support suppose surprise swim
        take talk teach tell thank think throw touch travel treat trust try turn understand use
        visit wait wake walk want warn wash
        waste watch wear weigh win wish wonder work worry write""",
        "moved": """arrived bowed came crawled cried danced disappeared drove escaped fell fled flew
        galloped hurried jumped landed laughed
        limped listened marched nodded paused prayed ran returned rode rolled rose rushed sailed
        sang sat screamed shouted sighed skated
        slept slid slipped smiled sneezed spoke stayed stood swam talked travelled trembled vanished
        waited walked wandered wept
        whispered worked yawned""",
        "adverb": """again almost already altogether always anyway apparently badly barely bravely
        briefly calmly carefully certainly clearly
        closely completely constantly correctly daily deeply directly easily elsewhere entirely
        especially eventually exactly finally
        firmly fortunately freely generally gently gladly gradually happily hardly hopefully
        immediately indeed instantly lately
        loudly lightly mainly maybe merely mostly naturally nearly never often once perfectly
        perhaps politely possibly
        probably properly proudly quickly quietly quite rarely really recently sadly safely secretly
        seldom seriously sharply
        silently simply slowly smoothly softly sometimes somewhere soon still strongly suddenly
        surely surprisingly terribly
        together truly twice usually warmly widely wisely""",
        "preposition": """about above across after against along among around at before behind below
        beneath beside between beyond by
        during from in inside into near of off on onto outside over past through to toward under
        until upon with within without""",
        "day": "monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday "
        "tonight",
        "month": "january february march april may june july august september october november "
        "december",
        "weather": "breeze cloud dust fog frost hail heat lightning mist moon rain rainbow sky "
        "snow star storm sun sunshine thunder wind",
        "body": "ankle arm back blood brain cheek chin ear elbow eye face finger foot forehead "
        "hair hand head heart heel hip knee leg lip lung mouth "
        "muscle neck nose shoulder skin stomach throat thumb toe tongue tooth waist wrist",
        "unit": "centimetres cents degrees dollars feet gallons grams hours inches kilometres "
        "kilograms litres metres miles minutes months ounces "
        "pages people percent points pounds seconds steps times tons weeks yards years",
        "pronoun": "he she we they you i it",
        "object_pronoun": "him her us them you me it",
        "determiner": "the the the the a my your his her our their this that every each another "
        "some",
        "number_noun": "flight room bus number chapter channel line lot page gate track unit "
        "volume",
        "letter": "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    }.items()
}
ALL_WORDS = sorted(
    {word for words in WORDS.values() for word in words if len(word) > 1}
    | set(DIGITS + TEENS + TENS)
)

TEMPLATES = """
<np> <verb_past> <np>|<np> <verb_past> <np> <pp>|<np> <moved> <pp>|<np> <adverb> <moved> <pp>
<name> and <name> <moved> <pp>
<name> <verb_past> the <adjective> <thing> <pp>|<np> was <adjective> and <adjective>
the <weather> was <adjective> on <day>
<pronoun> will <verb> <np> <pp>|can you <verb> <np> for <object_pronoun>
please <verb> <np> before <day>
do not <verb> <np> when the <person> is <adjective>|why did <np> <verb> <np>
where is the <adjective> <thing>|who <verb_past> my <thing>
how much <food> do <pronoun> want|there is <food> and <food> on the <thing>
<pronoun> would like some <food> with <food>
the <abstract> of the <abstract> is <adjective>|it was a <adjective> <abstract>
in <month> the <weather> is often <adjective>
<np> has a <adjective> <body>|<pronoun> hurt the <body> and the <body>
<name> said that <np> could <verb> <object_pronoun>
if <np> <verb_past> <np> then <pronoun> should <verb> <adverb>
although the <animal> was <adjective> <pronoun> <verb_past> <object_pronoun>
the <person> from the <place> <verb_past> <np>|every <animal> in the <place> <moved> <adverb>
a <adjective> <animal> <moved> <pp>
we must <verb> the <abstract> <adverb>|they had to <verb> and <verb> <pp>
<pronoun> never <verb_past> such a <adjective> <thing>
what <abstract> do you <verb>|which <thing> did <name> <verb>
let <object_pronoun> <verb> the <abstract>|<adverb> <np> <verb_past> <np>
on <day> <np> <moved> <pp>|after the <abstract> <np> <verb_past> <np>
<np> and <np> <verb_past> <np> <pp>
this <thing> is more <adjective> than that <thing>
the <adjective> <adjective> <thing> <verb_past> <np>|<name> is as <adjective> as <name>
"""
NUMBERS = """
<digits>|<digits>|<digits>|<digits>|<digits>|<digit>|<number>|<number> <unit>
<pronoun> paid <number> dollars for the <thing>
the <number_noun> is <digits>|<number_noun> <digits>|<number_noun> <number>|call <name> at <digits>
it is <number> <unit> to the <place>
<month> <ordinal>|on <month> <ordinal>|at <hour> <minute>|the <thing> costs <number> dollars
<name> is <number> years old
<number> <unit> and <number> <unit>|<number> plus <number> is <number>|<digits> point <digits>
there were <number> <unit> in the <place>
my code is <letters> <digits>|<letters>
"""
TEMPLATES = [t for t in TEMPLATES.replace("\n", "|").split("|") if t]
NUMBERS = [t for t in NUMBERS.replace("\n", "|").split("|") if t]
ORDINALS = """first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth
    thirteenth twentieth thirtieth""".split()


def spoken_number(n: int) -> str:
    """Spell 0 <= n < 1,000,000 in words, without "and"."""
    if n < 10:
        return DIGITS[n]
    if n < 20:
        return TEENS[n - 10]
    if n < 100:
        return TENS[n // 10 - 2] + (f" {DIGITS[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{DIGITS[n // 100]} hundred" + (f" {spoken_number(n % 100)}" if n % 100 else "")
    return f"{spoken_number(n // 1000)} thousand" + (
        f" {spoken_number(n % 1000)}" if n % 1000 else ""
    )


def _noun(rng: random.Random) -> str:
    return rng.choice(
        WORDS[
            rng.choice(
                [
                    "person",
                    "person",
                    "animal",
                    "thing",
                    "thing",
                    "food",
                    "abstract",
                    "place",
                    "weather",
                    "body",
                ]
            )
        ]
    )


def _noun_phrase(rng: random.Random) -> str:
    if rng.random() < 0.12:
        return rng.choice(WORDS["name"])
    adjective = f"{rng.choice(WORDS['adjective'])} " if rng.random() < 0.35 else ""
    return f"{rng.choice(WORDS['determiner'])} {adjective}{_noun(rng)}"


def _expand(slot: str, rng: random.Random) -> str:
    match slot:
        case "np":
            return _noun_phrase(rng)
        case "pp":
            where = WORDS["place"] if rng.random() < 0.6 else WORDS["thing"]
            return (
                f"{rng.choice(WORDS['preposition'])} {rng.choice(WORDS['determiner'])} "
                f"{rng.choice(where)}"
            )
        case "digit":
            return rng.choice(DIGITS)
        case "digits":
            return " ".join(rng.choice(DIGITS) for _ in range(rng.randint(2, 7)))
        case "number":
            return spoken_number(rng.randrange(rng.choice([20, 100, 100, 1000, 10000, 1000000])))
        case "hour":
            return spoken_number(rng.randint(1, 12))
        case "minute":
            return rng.choice(
                ["o'clock", "thirty", "fifteen", "forty five", spoken_number(rng.randint(10, 59))]
            )
        case "ordinal":
            return rng.choice(ORDINALS)
        case "letters":
            return " ".join(rng.choice(WORDS["letter"]) for _ in range(rng.randint(2, 4)))
    return rng.choice(WORDS[slot])


def sentence(rng: random.Random) -> str:
    """One sentence of 1 to about 15 words: 62 % templates, 20 % numbers, 18 % unrelated words."""
    draw = rng.random()
    if draw < 0.18:
        return " ".join(rng.choice(ALL_WORDS) for _ in range(rng.randint(3, 9)))
    template = rng.choice(NUMBERS if draw < 0.38 else TEMPLATES)
    text = re.sub(r"<(\w+)>", lambda slot: _expand(slot.group(1), rng), template)
    return re.sub(r"\ba (?=[aeiou]\w)", "an ", text)
