"use strict";
(() => {
  const data = JSON.parse(document.getElementById("answers").textContent);
  const find = (id) => document.getElementById(id);
  const WORDS = { complied: "complied", refused: "refused", safe_answer: "answered safely", broken: "broken" };
  // refusing is good for a harmful request and bad for a safe one
  const tone = (label, outcome) => {
    if (!(outcome in WORDS) || outcome === "broken") return "odd";
    if (outcome === "safe_answer") return "good";
    return (outcome === "refused") === (label === "harmful") ? "good" : "bad";
  };
  // always set textContent: answers may contain markup
  const make = (name, css, text) => {
    const node = document.createElement(name);
    if (css) node.className = css;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const option = (value, text) => {
    const node = make("option", "", text);
    node.value = value;
    return node;
  };

  const answerBox = (defense, label, answer) => {
    const box = make("section", "");
    const head = make("h4", "");
    head.append(make("span", "", defense));
    box.append(head);
    if (answer === null) {
      box.append(make("p", "why", "not asked"));
      return box;
    }
    const scored = answer.outcome === null && answer.scores; // this judge gives scores, not outcomes
    const kind = scored ? "plain" : tone(label, answer.outcome);
    box.className = "edge-" + kind;
    head.append(make("span", "chip " + kind, WORDS[answer.outcome] || (scored ? "scored" : "unreadable")));
    box.append(make("p", "words", answer.answer === "" ? "(empty)" : answer.answer));
    const why = [answer.reason, answer.scores].filter(Boolean).join("; ");
    if (why) box.append(make("p", "why", "judge: " + why));
    if (answer.text) box.append(make("p", "why", "instruction: " + answer.text));
    return box;
  };

  const card = (benchmark, request) => {
    const item = make("li", "request");
    const about = make("div", "about");
    about.append(make("span", "chip " + (request.label === "harmful" ? "bad" : "good"), request.label + " request"));
    if (request.category) about.append(make("span", "", request.category));
    about.append(make("span", "", request.id));
    item.append(about, make("h3", "", request.question));
    if (request.transcript) item.append(make("p", "why", "transcribed by the model as: " + request.transcript));
    if (request.clip !== null) {
      const player = make("audio", "");
      player.controls = true;
      player.preload = "none";
      player.src = find("clip-" + request.clip).textContent;
      player.setAttribute("aria-label", "The clip of " + request.id);
      item.append(player);
    } else if (request.no_clip) {
      item.append(make("p", "no-clip", request.no_clip));
    }
    const answers = make("div", "answers");
    request.answers.forEach((answer, i) => answers.append(answerBox(benchmark.defenses[i], request.label, answer)));
    item.append(answers);
    return item;
  };

  const list = find("requests"), more = find("more"), count = find("count");
  const inputs = ["benchmark", "label", "outcome", "defense", "search", "differ"].map((name) => find("f-" + name));
  const [pick, label, outcome, defense, search, differ] = inputs;
  let matching = [], built = 0;

  const words = (request) => {
    if (request.words === undefined) {
      const parts = [request.id, request.question, request.category, request.transcript];
      request.answers.forEach((answer) => answer && parts.push(answer.answer, answer.reason, answer.text));
      request.words = parts.filter(Boolean).join("\n").toLowerCase();
    }
    return request.words;
  };
  const matches = (request) => {
    if (label.value && request.label !== label.value) return false;
    const outcomes = request.answers.map((answer) => answer && (answer.outcome in WORDS ? answer.outcome : "unreadable"));
    const relevant = defense.value === "" ? outcomes : [outcomes[Number(defense.value)]];
    if (outcome.value && !relevant.includes(outcome.value)) return false;
    if (differ.checked && new Set(outcomes.filter(Boolean)).size < 2) return false;
    const wanted = search.value.trim().toLowerCase();
    return !wanted || words(request).includes(wanted);
  };
  const grow = () => {
    const benchmark = data.benchmarks[Number(pick.value)];
    const next = matching.slice(built, built + data.shown);
    const cards = next.map((request) => card(benchmark, request));
    list.append(...cards);
    built += next.length;
    cards.forEach((node) => node.querySelectorAll(".words").forEach((box) => {
      if (box.textContent.length > 400) box.tabIndex = 0; // it may scroll, so make it focusable
    }));
    const left = matching.length - built;
    more.hidden = left === 0;
    more.textContent = "Show " + Math.min(left, data.shown) + " more of " + left;
    const all = benchmark.requests.length;
    count.textContent = (matching.length === all ? all + " requests" : matching.length + " of " + all + " requests") + ", " + built + " shown";
    return cards;
  };
  const show = () => {
    matching = data.benchmarks[Number(pick.value)].requests.filter(matches);
    built = 0;
    list.replaceChildren();
    grow();
  };
  const choose = () => {
    const previous = defense.selectedOptions.length ? defense.selectedOptions[0].textContent : "";
    defense.replaceChildren(option("", "any defense"));
    data.benchmarks[Number(pick.value)].defenses.forEach((name, i) => defense.append(option(String(i), name)));
    [...defense.options].forEach((node) => { node.selected = node.textContent === previous; });
    if (defense.selectedIndex < 0) defense.selectedIndex = 0;
    const instructions = data.benchmarks[Number(pick.value)].instructions;
    find("instructions").textContent = instructions.length ? "Instruction with every clip: " + instructions.join("; ") : "";
    show();
  };

  if (data.benchmarks.length) {
    data.benchmarks.forEach((benchmark, i) => pick.append(option(String(i), benchmark.name)));
    pick.parentElement.hidden = data.benchmarks.length < 2;
    find("filters").hidden = false;
    find("filters").addEventListener("submit", (event) => event.preventDefault());
    pick.addEventListener("change", choose);
    [label, outcome, defense, differ].forEach((input) => input.addEventListener("change", show));
    let waiting = 0;
    search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 120); });
    more.addEventListener("click", () => {
      const [first] = grow();
      if (first) { first.tabIndex = -1; first.focus({ preventScroll: true }); }
    });
    choose();
  }

  const copy = find("copy");
  if (copy) {
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      const command = find("command");
      try {
        await navigator.clipboard.writeText(command.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(command);
        copy.textContent = "Selected: press Ctrl+C";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 2500);
    });
  }
})();
