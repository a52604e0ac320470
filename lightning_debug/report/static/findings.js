// Shows the findings that hold some words and have one of some severities. Without scripts all
// are shown.
"use strict";
(() => {
  const form = document.getElementById("filter");
  if (!form) return;
  const text = document.getElementById("filter-text");
  const result = document.getElementById("filter-result");
  const findings = [...document.querySelectorAll("article.finding")];

  // What a finding says itself, without the symptoms that are folded under it.
  const own = (finding) => {
    const copy = finding.cloneNode(true);
    copy.querySelectorAll("article.finding").forEach((symptom) => symptom.remove());
    return copy.textContent.toLowerCase();
  };
  const words = new Map(findings.map((finding) => [finding, own(finding)]));

  const filter = () => {
    const wanted = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const severities = new Set(
      [...form.querySelectorAll("input[name=severity]:checked")].map((box) => box.value),
    );
    const fits = (finding) =>
      severities.has(finding.dataset.severity) &&
      wanted.every((word) => words.get(finding).includes(word));
    let shown = 0;
    // From the innermost: a cause stays while one of its symptoms does.
    for (const finding of [...findings].reverse()) {
      const symptoms = [...finding.querySelectorAll("article.finding:not([hidden])")];
      const itself = fits(finding);
      finding.hidden = !itself && symptoms.length === 0;
      shown += itself;
      const folded = finding.querySelector("details.symptoms");
      if (folded && symptoms.length && wanted.length) folded.open = true;
    }
    result.textContent = `${shown} of ${findings.length} findings`;
  };

  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  filter();

  // A link to a folded finding opens what it is folded in; so does printing for all of them.
  const unfold = () => {
    const target = location.hash && document.getElementById(location.hash.slice(1));
    for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (target) target.scrollIntoView();
  };
  window.addEventListener("hashchange", unfold);
  unfold();
})();

(() => {
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    folded.forEach((each) => (each.open = true));
  });
  window.addEventListener("afterprint", () => folded.forEach((each) => (each.open = false)));
})();
