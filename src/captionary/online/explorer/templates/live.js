// Keeps the figures of a page fresh. The page is whole without it: reloading does the same.
(() => {
  const control = document.getElementById("live-control");
  if (!control || !window.fetch) return;
  const label = document.createElement("label"), box = document.createElement("input");
  box.type = "checkbox";
  box.checked = true;
  label.append(box, " Update every 5 seconds");
  control.append(label);
  control.hidden = false;
  const update = async () => {
    if (!box.checked || document.hidden) return;
    try {
      const answer = await fetch(location.href, { credentials: "same-origin", redirect: "error" });
      if (!answer.ok) return;
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const old of document.querySelectorAll("[data-live]")) {
        const now = fresh.getElementById(old.id);
        // Only what changed, so that nothing is read aloud again, and never under somebody's focus.
        if (now && now.innerHTML !== old.innerHTML && !old.contains(document.activeElement)) {
          old.replaceChildren(...document.importNode(now, true).childNodes);
        }
      }
    } catch { /* the next time */ }
  };
  setInterval(update, 5000);
})();
